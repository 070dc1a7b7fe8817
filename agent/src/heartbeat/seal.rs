//! Seals and opens heartbeat datagrams: AES-256-GCM under keys from the TLS session.
//!
//! Path: encoded heartbeat -> [`Sealer`] -> UDP -> [`Opener`] -> encoded heartbeat. Layout:
//! `key id (8) | counter (8) | cipher text | tag (16)`, big-endian; the header is authenticated
//! and the counter is the nonce. One heartbeat sent on two paths is two datagrams with two
//! counters, so the replay window is shared over the paths. Nothing here allocates once the
//! caller's buffer has grown. Does not encode, send, or decide what silence means.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Bytes before the cipher text: key id and counter.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the authentication tag at the end.
pub const TAG_BYTES: usize = 16;
/// The longest plain heartbeat. One has about 150 bytes; more than this is not one of ours.
pub const MAX_PLAIN_BYTES: usize = 512;
/// The longest datagram; also the size of a receive buffer.
pub const MAX_DATAGRAM_BYTES: usize = HEADER_BYTES + MAX_PLAIN_BYTES + TAG_BYTES;
const MIN_DATAGRAM_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// How far behind the newest counter a datagram may come and still be new: two paths, an echo
/// on each, and a path that lags the other by a dozen periods.
const WINDOW: u64 = u64::BITS as u64;

/// Why a datagram was not sealed or not opened. None of these changes any state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Longer than a heartbeat can be.
    #[error("a heartbeat has at most {MAX_PLAIN_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// Too short for header and tag.
    #[error("a sealed heartbeat has at least {MIN_DATAGRAM_BYTES} bytes, this one has {0}")]
    TooShort(usize),
    /// Sealed under a key that is neither the current nor the last one.
    #[error(
        "unknown heartbeat key {0:016x}: from a foreign node, or from a session that has been replaced twice"
    )]
    UnknownKey(u64),
    /// Seen before, or older than the window.
    #[error("heartbeat {counter} was seen before or is too old (the newest is {newest})")]
    Replayed {
        /// Counter of the refused datagram.
        counter: u64,
        /// The newest counter opened under that key.
        newest: u64,
    },
    /// Not sealed with this key, or changed on the way.
    #[error("heartbeat under key {0:016x} is forged or was damaged on the way")]
    Forged(u64),
    /// The counter has reached its end.
    #[error("heartbeat key {0:016x} is used up; a new data connection brings new keys")]
    UsedUp(u64),
}

fn key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes exactly 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what this node sends. Build exactly one per key: a second would use counters again.
pub struct Sealer {
    id: u64,
    key: LessSafeKey,
    last_counter: u64,
}

impl Sealer {
    /// A sealer for `key`, announced as `id`; the first counter is 1.
    pub fn new(id: u64, key_bytes: &[u8; 32]) -> Self {
        Self { id, key: key(key_bytes), last_counter: 0 }
    }

    /// The key id its datagrams carry.
    pub fn key_id(&self) -> u64 {
        self.id
    }

    /// Replaces the contents of `out` by the sealed `plain`.
    ///
    /// # Errors
    /// `plain` is longer than [`MAX_PLAIN_BYTES`], or the counter is used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if plain.len() > MAX_PLAIN_BYTES {
            return Err(SealError::TooLong(plain.len()));
        }
        let counter = self.last_counter.checked_add(1).ok_or(SealError::UsedUp(self.id))?;
        // Counted before use, so that no failure can lead to a second use.
        self.last_counter = counter;
        out.clear();
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(plain);
        let (header, text) = out.split_at_mut(HEADER_BYTES);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), text)
            .expect("the length is far below AES-GCM's limit");
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Which counters have been opened under one key.
#[derive(Debug, Clone, Copy, Default)]
struct ReplayWindow {
    newest: u64,
    /// Bit `n`: counter `newest - n` has been opened.
    seen: u64,
}

impl ReplayWindow {
    fn is_new(&self, counter: u64) -> bool {
        if counter > self.newest {
            return true;
        }
        let age = self.newest - counter;
        counter != 0 && age < WINDOW && self.seen & (1 << age) == 0
    }

    fn mark(&mut self, counter: u64) {
        if counter > self.newest {
            let step = counter - self.newest;
            self.seen = if step < WINDOW { self.seen << step } else { 0 } | 1;
            self.newest = counter;
        } else {
            self.seen |= 1 << (self.newest - counter);
        }
    }
}

struct OpeningKey {
    id: u64,
    key: LessSafeKey,
    window: ReplayWindow,
}

/// Opens what the peer sends, under the current key and the one before it: the peer's last
/// datagrams under the old key may arrive after the new session stands.
#[derive(Default)]
pub struct Opener {
    current: Option<OpeningKey>,
    last: Option<OpeningKey>,
}

impl Opener {
    /// An opener without keys: every datagram is from an unknown key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `key` current and keeps the current one as the last. The same id again changes
    /// nothing, or its replay window would be forgotten.
    pub fn add_key(&mut self, id: u64, key_bytes: &[u8; 32]) {
        if [&self.current, &self.last].into_iter().flatten().any(|known| known.id == id) {
            return;
        }
        let added = OpeningKey { id, key: key(key_bytes), window: ReplayWindow::default() };
        self.last = self.current.replace(added);
    }

    /// The current key's id.
    pub fn key_id(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.id)
    }

    /// Was `datagram` sealed by the key before the current one? Means something once it is opened.
    pub fn is_by_last_key(&self, datagram: &[u8]) -> bool {
        let id = datagram.first_chunk::<HEADER_BYTES>().map(|header| header_fields(header).0);
        self.last.as_ref().is_some_and(|last| Some(last.id) == id)
    }

    /// Opens `datagram` in place and returns the plain heartbeat, each counter once.
    ///
    /// # Errors
    /// Too short or long, an unknown key, seen before, or not authentic.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a [u8], SealError> {
        let length = datagram.len();
        if length > MAX_DATAGRAM_BYTES {
            return Err(SealError::TooLong(length));
        }
        let Some((header, text)) = datagram.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Err(SealError::TooShort(length));
        };
        if text.len() < TAG_BYTES {
            return Err(SealError::TooShort(length));
        }
        let (id, counter) = header_fields(header);
        let known = [&mut self.current, &mut self.last].into_iter().flatten().find(|known| known.id == id);
        let known = known.ok_or(SealError::UnknownKey(id))?;
        if !known.window.is_new(counter) {
            return Err(SealError::Replayed { counter, newest: known.window.newest });
        }
        let plain = known
            .key
            .open_in_place(nonce(counter), Aad::from(&*header), text)
            .map_err(|_| SealError::Forged(id))?;
        // Only an authentic datagram moves the window, or a forger could close it.
        known.window.mark(counter);
        Ok(plain)
    }
}

fn header_fields(header: &[u8; HEADER_BYTES]) -> (u64, u64) {
    let (id, counter) = header.split_at(8);
    let field = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("half of a header is 8 bytes"));
    (field(id), field(counter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn pair() -> (Sealer, Opener) {
        let mut opener = Opener::new();
        opener.add_key(1, &KEY);
        (Sealer::new(1, &KEY), opener)
    }

    fn sealed(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        sealer.seal(plain, &mut out).expect("seals");
        out
    }

    #[test]
    fn what_was_sealed_opens_once_and_only_once() {
        let (mut sealer, mut opener) = pair();
        let datagram = sealed(&mut sealer, b"alive");
        assert_eq!(opener.open(&mut datagram.clone()), Ok(&b"alive"[..]));
        assert_eq!(
            opener.open(&mut datagram.clone()),
            Err(SealError::Replayed { counter: 1, newest: 1 }),
            "the same datagram again"
        );
    }

    #[test]
    fn a_slow_path_is_heard_within_the_window_and_refused_behind_it() {
        let (mut sealer, mut opener) = pair();
        let mut slow: Vec<_> = (0..66).map(|_| sealed(&mut sealer, b"slow")).collect();
        let (oldest, rest) = slow.split_at_mut(2);
        let newest = rest.last_mut().expect("64 are left");
        opener.open(newest).expect("the newest first");
        assert!(matches!(opener.open(&mut oldest[0]), Err(SealError::Replayed { counter: 1, newest: 66 })));
        assert!(matches!(opener.open(&mut oldest[1]), Err(SealError::Replayed { counter: 2, newest: 66 })));
        for datagram in &mut rest[..63] {
            opener.open(datagram).expect("63 older ones are within the window");
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_does_not_move_the_window() {
        let (mut sealer, mut opener) = pair();
        let datagram = sealed(&mut sealer, b"alive");
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            opener.open(&mut damaged).expect_err("a flipped bit");
        }
        opener.open(&mut datagram.clone()).expect("the honest one still opens");
    }

    #[test]
    fn the_last_key_still_opens_after_a_change_and_the_one_before_does_not() {
        let (mut first, mut opener) = pair();
        let mut second = Sealer::new(2, &[8; 32]);
        opener.add_key(2, &[8; 32]);
        opener.open(&mut sealed(&mut first, b"old")).expect("the last key");
        assert!(opener.is_by_last_key(&sealed(&mut first, b"old")));
        opener.open(&mut sealed(&mut second, b"new")).expect("the current key");
        assert!(!opener.is_by_last_key(&sealed(&mut second, b"new")));
        opener.add_key(3, &[9; 32]);
        assert_eq!(opener.open(&mut sealed(&mut first, b"older")), Err(SealError::UnknownKey(1)));
        assert_eq!(opener.key_id(), Some(3));
    }

    #[test]
    fn adding_a_known_key_again_does_not_forget_what_was_seen() {
        let (mut sealer, mut opener) = pair();
        let datagram = sealed(&mut sealer, b"alive");
        opener.open(&mut datagram.clone()).expect("opens");
        opener.add_key(1, &KEY);
        opener.open(&mut datagram.clone()).expect_err("a replay");
    }

    #[test]
    fn too_long_and_too_short_are_refused_by_name() {
        let (mut sealer, mut opener) = pair();
        let mut out = Vec::new();
        assert_eq!(sealer.seal(&[0; 513], &mut out), Err(SealError::TooLong(513)));
        assert_eq!(opener.open(&mut [0; 31]), Err(SealError::TooShort(31)));
        assert_eq!(opener.open(&mut [0; MAX_DATAGRAM_BYTES + 1]), Err(SealError::TooLong(545)));
    }

    #[test]
    fn sealing_does_not_allocate_once_the_buffer_has_grown() {
        let (mut sealer, _) = pair();
        let mut out = Vec::with_capacity(MAX_DATAGRAM_BYTES);
        let before = out.as_ptr();
        for _ in 0..100 {
            sealer.seal(&[0; MAX_PLAIN_BYTES], &mut out).expect("seals");
        }
        assert_eq!(before, out.as_ptr());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (_, mut opener) = pair();
            prop_assert!(opener.open(&mut bytes.clone()).is_err());
            let mut ours = 1_u64.to_be_bytes().to_vec();
            ours.extend(bytes);
            prop_assert!(opener.open(&mut ours).is_err());
        }

        #[test]
        fn each_counter_opens_once_in_any_order(order in proptest::collection::vec(0_usize..64, 1..300)) {
            let (mut sealer, mut opener) = pair();
            let sent: Vec<_> = (0..64).map(|_| sealed(&mut sealer, b"x")).collect();
            let mut opened = [false; 64];
            for index in order {
                let fresh = opener.open(&mut sent[index].clone()).is_ok();
                prop_assert_eq!(fresh, !opened[index]);
                opened[index] = true;
            }
        }
    }
}
