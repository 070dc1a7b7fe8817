//! The measure of two holders on made-up observations.

use super::*;

const MS: u64 = 1_000_000;
const A: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 1]);
const B: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 2]);
const C: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 3]);

fn vip() -> IpAddr {
    "10.77.0.10".parse().expect("an address")
}

/// Frames as (millisecond, sender).
fn seen(frames: &[(u64, HardwareAddress)]) -> Observations {
    let mut observations = Observations::default();
    for (at_ms, mac) in frames {
        observations.add(vip(), *mac, at_ms * MS);
    }
    observations
}

fn takeover(start_ms: u64, end_ms: u64) -> Takeover {
    Takeover { start_ns: start_ms * MS, end_ns: end_ms * MS }
}

#[test]
fn one_sender_is_one_run() {
    let observations = seen(&[(1, A), (2, A), (9, A)]);
    assert_eq!(observations.runs.len(), 1);
    assert_eq!(observations.runs[0].frames, 3);
    assert_eq!(dual_holder_ms(&observations, &[]), 0);
}

#[test]
fn a_clean_takeover_counts_nothing() {
    let observations = seen(&[(1, A), (10, A), (300, B), (400, B)]);
    assert_eq!(dual_holder_ms(&observations, &[takeover(10, 500)]), 0);
}

#[test]
fn the_old_sender_going_on_after_the_new_ones_first_frame_counts_to_its_last() {
    let observations = seen(&[(1, A), (300, B), (307, A), (350, B), (352, A), (400, B)]);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 52);
}

#[test]
fn a_begun_millisecond_counts_whole() {
    let mut observations = seen(&[(1, A), (300, B)]);
    observations.add(vip(), A, 300 * MS + 1);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 1);
}

#[test]
fn another_sender_outside_a_takeover_counts_whole() {
    let observations = seen(&[(1, A), (100, B), (101, A), (130, B), (140, A)]);
    assert_eq!(dual_holder_ms(&observations, &[]), 30);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 30);
}

#[test]
fn a_single_foreign_frame_outside_a_takeover_counts() {
    let observations = seen(&[(1, A), (100, B), (101, A)]);
    assert_eq!(dual_holder_ms(&observations, &[]), 1);
}

#[test]
fn a_move_that_begins_after_the_takeovers_end_is_outside_of_it() {
    let observations = seen(&[(1, A), (600, B), (640, B)]);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 40);
}

#[test]
fn there_and_back_are_two_takeovers() {
    let observations = seen(&[(1, A), (300, B), (900, B), (1005, A), (1010, B), (1100, A)]);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500), takeover(1000, 1200)]), 5);
}

#[test]
fn a_third_sender_inside_a_takeover_counts_whole() {
    let observations = seen(&[(1, A), (300, B), (310, C), (320, B), (330, C), (400, B)]);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 20);
}

#[test]
fn the_old_sender_coming_back_long_after_the_takeover_still_counts() {
    let observations = seen(&[(1, A), (300, B), (5000, B), (5001, A), (5002, B)]);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 4701);
}

#[test]
fn two_addresses_are_judged_one_by_one_and_the_worst_counts() {
    let other: IpAddr = "fd77::10".parse().expect("an address");
    let mut observations = seen(&[(1, A), (300, B), (302, A)]);
    observations.add(other, A, 310 * MS);
    observations.add(other, B, 320 * MS);
    observations.add(other, A, 327 * MS);
    assert_eq!(dual_holder_ms(&observations, &[takeover(200, 500)]), 7);
}

#[test]
fn a_hardware_address_reads_as_it_is_written() {
    assert_eq!("02:00:00:00:00:03".parse(), Ok(C));
    assert_eq!(C.to_string(), "02:00:00:00:00:03");
    assert!("02:00".parse::<HardwareAddress>().is_err());
}
