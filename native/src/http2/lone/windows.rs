//! The flow control of calls that h2 does not see.
//!
//! The client's window for the connection limits the bytes of all answers, and h2 would use the whole window. So when
//! the client enlarges the window, h2 is told of a part of that, and the share that is kept from it is for lone calls
//! (`enlarged`). When h2 has used much of its part, it gets the share back (`h2_sent`). So lone calls and h2 together
//! never send more than the client allows, and h2 never waits while some of the window is left.

/// The window of a new connection, and of a stream without a setting.
const DEFAULT: u32 = 65_535;

/// The part of the window that stays with h2 when a share is taken.
const KEPT: u32 = 32 << 10;

/// h2 gets the share back if less than this is left to it.
const FEW: u32 = 16 << 10;

/// The largest window.
const MOST: u32 = (1 << 31) - 1;

/// The length of the longest DATA frame that every client accepts.
const FRAME: usize = 16 << 10;

/// The number of bytes of requests that are returned to the client's window together. h2 lets the client send 16 MB
/// ahead.
const RETURNED: u32 = 32 << 10;

/// The windows of one connection, in bytes.
pub struct Windows {
    /// How much of the client's window is left for answers of which h2 does not know.
    share: u32,
    /// How much of the client's window is left for h2, at least.
    left: u32,
    /// How much has been taken from the share for h2, which has not been told so yet.
    back: u32,
    /// The client's window for each new stream; 0 if unknown.
    stream: u32,
    /// The number of bytes of requests that h2 has not seen, and that have not been returned to the client's window.
    received: u32,
}

impl Default for Windows {
    fn default() -> Self {
        Self { share: 0, left: DEFAULT, back: 0, stream: DEFAULT, received: 0 }
    }
}

impl Windows {
    /// Called when the client has enlarged its window for the connection; `shares` says whether to keep a share.
    /// Returns by how much h2 is to enlarge the window: by at least 1, unless `by` is 0.
    pub fn enlarged(&mut self, by: u32, shares: bool) -> u32 {
        let spare = self.left.saturating_add(by).saturating_sub(KEPT);
        let taken = if shares { by.saturating_sub(1).min(spare).min(MOST - self.share) } else { 0 };
        self.share += taken;
        self.left = self.left.saturating_add(by - taken);
        by - taken
    }

    /// Called when h2 has sent DATA. Returns whether h2 must be given a further part of the window.
    pub fn h2_sent(&mut self, bytes: u32) -> bool {
        self.left = self.left.saturating_sub(bytes);
        if self.left < FEW {
            self.back = self.back.saturating_add(std::mem::take(&mut self.share)).min(MOST);
        }
        self.back > 0
    }

    /// Returns by how much h2 must be told to enlarge the window; None if not at all.
    pub fn given_back(&mut self) -> Option<u32> {
        let back = std::mem::take(&mut self.back);
        self.left = self.left.saturating_add(back);
        (back > 0).then_some(back)
    }

    /// Stores the client's window for each stream; None if the setting could not be read.
    pub fn set_stream(&mut self, bytes: Option<u32>) {
        self.stream = bytes.unwrap_or(0);
    }

    /// Whether an answer of this many bytes may be sent at once, as a single frame.
    pub fn fit(&self, bytes: usize) -> bool {
        bytes <= FRAME && bytes <= self.share.min(self.stream) as usize
    }

    /// Returns by how many bytes to enlarge the client's window for requests, together with the answer to a request of
    /// this many bytes; None if that can wait.
    pub fn returned(&self, received: u32) -> Option<u32> {
        let all = self.received + received;
        (all >= RETURNED).then_some(all)
    }

    /// Counts a call: the number of bytes of its request, and of its answer, which must fit.
    pub fn count(&mut self, received: u32, sent: u32) {
        self.share -= sent;
        self.received = if self.returned(received).is_some() { 0 } else { self.received + received };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_keeps_enough_and_gets_the_rest_when_it_needs_it() {
        let mut windows = Windows::default();
        assert!(!windows.fit(1), "the first window is h2's");
        assert_eq!(windows.enlarged(1 << 20, true), 1);
        assert!(windows.fit(FRAME) && !windows.fit(FRAME + 1));
        assert!(!windows.h2_sent(DEFAULT + 1 - FEW));
        assert!(windows.h2_sent(1));
        assert_eq!((windows.given_back(), windows.given_back()), (Some((1 << 20) - 1), None));
        assert!(!windows.fit(1));
    }

    #[test]
    fn both_together_have_what_the_client_allows() {
        let (mut windows, mut allowed, mut h2) = (Windows::default(), u64::from(DEFAULT), u64::from(DEFAULT));
        let mut seed = 1_u32;
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bytes = (seed >> 8) % 30_000;
            match seed >> 30 {
                0 => {
                    allowed += u64::from(bytes);
                    h2 += u64::from(windows.enlarged(bytes, seed & 1 == 0));
                }
                1 if windows.fit(bytes as usize) => {
                    windows.count(bytes, bytes);
                    allowed -= u64::from(bytes);
                }
                2 if u64::from(bytes) <= h2 => {
                    allowed -= u64::from(bytes);
                    h2 -= u64::from(bytes);
                    if windows.h2_sent(bytes) {
                        h2 += u64::from(windows.given_back().unwrap_or_default());
                    }
                }
                _ => {}
            }
            assert_eq!(h2 + u64::from(windows.share), allowed);
            assert!(h2 >= u64::from(FEW) || windows.share == 0);
        }
    }

    #[test]
    fn a_share_is_kept_only_of_what_h2_can_spare() {
        let mut windows = Windows::default();
        assert_eq!(windows.enlarged(1_000, false), 1_000);
        windows.h2_sent(DEFAULT + 1_000 - KEPT);
        assert_eq!(windows.enlarged(500, true), 1);
        assert_eq!(windows.enlarged(0, true), 0);
        windows.h2_sent(10_000);
        assert_eq!(windows.enlarged(9_000, true), 9_000, "h2 has less than it keeps");
    }

    #[test]
    fn an_answer_fits_the_window_of_its_stream() {
        let mut windows = Windows::default();
        windows.enlarged(1 << 20, true);
        windows.set_stream(Some(10));
        assert!(windows.fit(10) && !windows.fit(11));
        windows.set_stream(None);
        assert!(!windows.fit(1));
    }

    #[test]
    fn requests_are_given_back_in_larger_parts() {
        let mut windows = Windows::default();
        windows.enlarged(1 << 20, true);
        let mut returned = (0..100).filter_map(|_| {
            let returned = windows.returned(1_000);
            windows.count(1_000, 1);
            returned
        });
        assert_eq!((returned.next(), returned.next()), (Some(33_000), Some(33_000)));
    }
}
