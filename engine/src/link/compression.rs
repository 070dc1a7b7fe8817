//! Whether bodies are packed by zstd, and the one sentence why.
//!
//! Called by the writer for each large body. Packing pays when the time it takes plus the time
//! the packed bytes need on the link is less than the time the plain bytes need. The decision is
//! pure ([`decide`]); [`Packer`] measures, packs, and keeps trying now and then while it is off.

use std::{fmt, time::Instant};
use zstd::bulk::Compressor;

/// The level: higher ones cost more than a 1 Gbit/s link gives back.
const LEVEL: i32 = 1;

/// Shorter bodies are not worth a call.
const MIN_BODY_BYTES: usize = 512;

/// While packing is off, one body in so many is packed to see whether that is still right.
const TRY_EVERY: u32 = 64;

/// Measurements are halved when they cover this much, so that old ones fade.
const FADE_BYTES: u64 = 8 << 20;

/// Packing must win by a tenth: less is noise and would flap.
const GAIN_NUMERATOR: u64 = 9;
const GAIN_DENOMINATOR: u64 = 10;

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressionSetting {
    /// Decide by measurement.
    #[default]
    Adaptive,
    /// Never.
    Off,
}

/// What was measured, summed over recent bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Samples {
    /// Bytes given to the compressor.
    pub plain_bytes: u64,
    /// Bytes it gave back.
    pub packed_bytes: u64,
    /// How long that took, microseconds.
    pub wall_us: u64,
    /// Processor time of it, microseconds.
    pub cpu_us: u64,
}

/// Why packing is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The configuration says so.
    ConfiguredOff,
    /// No large body was sent yet.
    NotMeasured,
    /// The link has never been the bottleneck.
    LinkNotBusy,
    /// The bodies do not get smaller.
    DoesNotShrink {
        /// Bytes saved, percent.
        saved_percent: u64,
    },
    /// Another program has the processor.
    CpuBusy {
        /// How many times longer than its processor time packing takes.
        stretched: u64,
    },
    /// Plain bytes are through sooner.
    LinkFaster {
        /// What the link carries.
        link_bytes_per_s: u64,
        /// What the compressor reads.
        compressor_bytes_per_s: u64,
    },
    /// Packing pays.
    Saves {
        /// Bytes saved, percent.
        saved_percent: u64,
    },
}

impl Reason {
    /// True: bodies are packed.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::Saves { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfiguredOff => f.write_str("compression is off: the configuration says so"),
            Self::NotMeasured => f.write_str("compression is off: nothing large was sent yet"),
            Self::LinkNotBusy => f.write_str("compression is off: the link has not been the bottleneck yet"),
            Self::DoesNotShrink { saved_percent } => {
                write!(f, "compression is off: the data does not shrink (it would save {saved_percent} %)")
            }
            Self::CpuBusy { stretched } => {
                write!(
                    f,
                    "compression is off: the processor is busy (packing takes {stretched} times its processor time)"
                )
            }
            Self::LinkFaster { link_bytes_per_s, compressor_bytes_per_s } => write!(
                f,
                "compression is off: the link ({} MB/s) is faster than packing first ({} MB/s)",
                link_bytes_per_s / 1_000_000,
                compressor_bytes_per_s / 1_000_000
            ),
            Self::Saves { saved_percent } => write!(f, "compression is on: it saves {saved_percent} %"),
        }
    }
}

/// Decides from what was measured; `link_bytes_per_s` is `None` while the link was never busy.
pub fn decide(setting: CompressionSetting, samples: &Samples, link_bytes_per_s: Option<u64>) -> Reason {
    if setting == CompressionSetting::Off {
        return Reason::ConfiguredOff;
    }
    if samples.plain_bytes == 0 {
        return Reason::NotMeasured;
    }
    let saved = samples.plain_bytes.saturating_sub(samples.packed_bytes);
    let saved_percent = saved * 100 / samples.plain_bytes;
    if saved_percent < 10 {
        return Reason::DoesNotShrink { saved_percent };
    }
    let Some(link_bytes_per_s) = link_bytes_per_s else { return Reason::LinkNotBusy };
    let link_us = |bytes: u64| bytes.saturating_mul(1_000_000) / link_bytes_per_s.max(1);
    // One thread packs and sends, so the two times add up.
    let (plain_us, pays_below_us) = {
        let us = link_us(samples.plain_bytes);
        (us, us * GAIN_NUMERATOR / GAIN_DENOMINATOR)
    };
    let sent_us = link_us(samples.packed_bytes);
    if sent_us + samples.wall_us < pays_below_us {
        return Reason::Saves { saved_percent };
    }
    if sent_us + samples.cpu_us < pays_below_us && samples.wall_us < plain_us.saturating_mul(100) {
        return Reason::CpuBusy { stretched: samples.wall_us / samples.cpu_us.max(1) };
    }
    let compressor_bytes_per_s = samples.plain_bytes.saturating_mul(1_000_000) / samples.wall_us.max(1);
    Reason::LinkFaster { link_bytes_per_s, compressor_bytes_per_s }
}

/// Packs bodies while it pays; one context and one buffer for the life of a connection.
pub(crate) struct Packer {
    setting: CompressionSetting,
    context: Compressor<'static>,
    buffer: Vec<u8>,
    samples: Samples,
    reason: Reason,
    until_try: u32,
}

impl Packer {
    pub(crate) fn new(setting: CompressionSetting) -> Self {
        Self {
            setting,
            context: Compressor::new(LEVEL).expect("a constant level and enough memory for one context"),
            buffer: Vec::new(),
            samples: Samples::default(),
            reason: decide(setting, &Samples::default(), None),
            until_try: 0,
        }
    }

    /// The present decision.
    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// The packed form of `body`, when packing is on or due for a try.
    pub(crate) fn pack(&mut self, body: &[u8], link_bytes_per_s: Option<u64>) -> Option<&[u8]> {
        if self.setting == CompressionSetting::Off || body.len() < MIN_BODY_BYTES {
            return None;
        }
        if !self.reason.is_on() {
            if self.until_try > 0 {
                self.until_try -= 1;
                return None;
            }
            self.until_try = TRY_EVERY - 1;
        }
        let packed_len = self.measure(body)?;
        self.reason = decide(self.setting, &self.samples, link_bytes_per_s);
        Some(&self.buffer[..packed_len])
    }

    fn measure(&mut self, body: &[u8]) -> Option<usize> {
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(body.len()));
        let (wall, cpu_us) = (Instant::now(), thread_cpu_us());
        // An error leaves the body plain: compression is a gain, never a condition.
        let packed_len = self.context.compress_to_buffer(body, &mut self.buffer).ok()?;
        let samples = &mut self.samples;
        samples.wall_us += wall.elapsed().as_micros() as u64;
        samples.cpu_us += thread_cpu_us() - cpu_us;
        samples.plain_bytes += body.len() as u64;
        samples.packed_bytes += packed_len.min(body.len()) as u64;
        if samples.plain_bytes > FADE_BYTES {
            for sum in [
                &mut samples.plain_bytes,
                &mut samples.packed_bytes,
                &mut samples.wall_us,
                &mut samples.cpu_us,
            ] {
                *sum /= 2;
            }
        }
        Some(packed_len)
    }
}

fn thread_cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: Option<u64> = Some(125_000_000);

    /// One megabyte packed to `packed_percent` at `mb_per_s`.
    fn samples(packed_percent: u64, mb_per_s: u64, stretched: u64) -> Samples {
        let cpu_us = 1_000_000 / mb_per_s;
        Samples {
            plain_bytes: 1_000_000,
            packed_bytes: packed_percent * 10_000,
            wall_us: cpu_us * stretched,
            cpu_us,
        }
    }

    #[test]
    fn packing_is_on_where_it_shortens_the_way() {
        let reason = decide(CompressionSetting::Adaptive, &samples(40, 400, 1), GIGABIT);
        assert_eq!(reason, Reason::Saves { saved_percent: 60 });
        assert!(reason.is_on());
    }

    #[test]
    fn each_reason_to_leave_it_off_is_found_and_said() {
        let adaptive = CompressionSetting::Adaptive;
        let cases = [
            (decide(CompressionSetting::Off, &samples(40, 400, 1), GIGABIT), "configuration"),
            (decide(adaptive, &Samples::default(), GIGABIT), "nothing large"),
            (decide(adaptive, &samples(40, 400, 1), None), "bottleneck"),
            (decide(adaptive, &samples(97, 400, 1), GIGABIT), "does not shrink (it would save 3 %)"),
            (decide(adaptive, &samples(40, 400, 1), Some(1_250_000_000)), "link (1250 MB/s) is faster"),
            (decide(adaptive, &samples(40, 400, 5), GIGABIT), "processor is busy (packing takes 5 times"),
        ];
        for (reason, words) in cases {
            assert!(!reason.is_on());
            assert!(reason.to_string().contains(words), "{reason}");
        }
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same() {
        let mut packer = Packer::new(CompressionSetting::Adaptive);
        let body = b"the same words again and again, ".repeat(1_000);
        let packed = packer.pack(&body, GIGABIT).expect("the first body is tried").to_vec();
        assert!(packed.len() < body.len() / 10);
        assert_eq!(zstd::bulk::decompress(&packed, body.len()).unwrap(), body);
    }

    #[test]
    fn while_it_is_off_bodies_are_tried_now_and_then() {
        let mut packer = Packer::new(CompressionSetting::Adaptive);
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(64 << 10)
        .collect();
        let tried = (0..TRY_EVERY * 3).filter(|_| packer.pack(&noise, GIGABIT).is_some()).count();
        assert_eq!(tried, 3);
        assert_eq!(packer.reason(), Reason::DoesNotShrink { saved_percent: 0 });
    }
}
