//! Pages of the database file, read beside the frames and put into the same ordered stream.
//!
//! A page is read while the database is written: it may be torn or newer than the frames sent so
//! far. That is sound because every write to the database file is a copy of a committed frame of a
//! generation that is sent whole, so the frames up to the end of the copy put it right.

use super::CaptureError;
use super::files::Files;
use crate::wal::lock_page;
use bytes::Bytes;
use lockstep_wire::Position;
use std::collections::VecDeque;

/// Bytes of one page event.
const CHUNK_MAX_BYTES: u32 = 256 << 10;

/// Jobs that may wait: a session asks for ranges one after another.
pub(super) const PAGE_JOBS_MAX: usize = super::COMMANDS_MAX;

/// Something to be put into the stream.
#[derive(Debug)]
pub(super) enum PageJob {
    /// All pages in `next..end`.
    Read { next: u64, end: u64 },
    /// Pages in `next..end` that differ from `hashes[page - base]`.
    Differing { base: u64, next: u64, end: u64, hashes: Vec<u64> },
    /// The end of the copy, once the frames up to `target` are in the stream.
    End { target: Option<Position> },
}

impl PageJob {
    pub(super) fn read(first_page: u32, page_count: u32) -> Self {
        let next = u64::from(first_page.max(1));
        Self::Read { next, end: next + u64::from(page_count) }
    }

    pub(super) fn differing(first_page: u32, page_count: u32, hashes: Vec<u64>) -> Self {
        let next = u64::from(first_page.max(1));
        Self::Differing { base: next, next, end: next + u64::from(page_count), hashes }
    }
}

/// Does one chunk of the first job; returns runs of pages to send. A finished job is removed.
pub(super) fn step(jobs: &mut VecDeque<PageJob>, files: &Files) -> Result<Vec<(u32, Bytes)>, CaptureError> {
    let chunk = CHUNK_MAX_BYTES / files.page_size();
    let (next, end) = match jobs.front_mut() {
        Some(PageJob::Read { next, end } | PageJob::Differing { next, end, .. }) => (next, *end),
        Some(PageJob::End { .. }) | None => return Ok(Vec::new()),
    };
    let first = *next;
    let count = u64::from(chunk).min(end - first) as u32;
    let in_file = u64::from(files.page_count()?) + 1;
    let data =
        if count == 0 || first >= in_file { Bytes::new() } else { files.pages(first as u32, count)? };
    *next += u64::from(count);
    let finished = *next >= end || data.is_empty();
    let runs = match jobs.front() {
        Some(PageJob::Differing { base, hashes, .. }) => {
            let known = |page: u64| hashes.get((page - base) as usize).copied();
            differing_runs(first, &data, files.page_size(), known)
        }
        _ if data.is_empty() => Vec::new(),
        _ => vec![(first as u32, data)],
    };
    if finished {
        jobs.pop_front();
    }
    Ok(runs)
}

/// Runs of neighbouring pages whose hash is not the known one. The lock page is never compared.
fn differing_runs(
    first: u64,
    data: &Bytes,
    page_size: u32,
    known: impl Fn(u64) -> Option<u64>,
) -> Vec<(u32, Bytes)> {
    let size = page_size as usize;
    let mut runs = Vec::new();
    let mut begin = None;
    let count = data.len() / size;
    for at in 0..=count {
        let differs = at < count && {
            let page = first + at as u64;
            let content = &data[at * size..(at + 1) * size];
            page != u64::from(lock_page(page_size))
                && known(page) != Some(xxhash_rust::xxh3::xxh3_64(content))
        };
        match (begin, differs) {
            (None, true) => begin = Some(at),
            (Some(from), false) => {
                runs.push(((first + from as u64) as u32, data.slice(from * size..at * size)));
                begin = None;
            }
            _ => {}
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    #[test]
    fn only_pages_that_differ_or_are_unknown_are_sent() {
        let data = Bytes::from((0..5_u8).flat_map(|n| [n; 512]).collect::<Vec<u8>>());
        let hashes: Vec<u64> = [0_u8, 9, 9, 3].iter().map(|&n| xxh3_64(&[n; 512])).collect();
        let runs = differing_runs(11, &data, 512, |page| hashes.get((page - 11) as usize).copied());
        let pages: Vec<(u32, usize)> = runs.iter().map(|(first, data)| (*first, data.len() / 512)).collect();
        assert_eq!(pages, [(12, 2), (15, 1)]);
    }
}
