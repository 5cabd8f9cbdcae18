//! [`Rope`]: octets as a list of shared slices, so that payload crosses rooms without being copied.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

/// Octets in order, as slices of shared buffers.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    /// No octets.
    pub const fn new() -> Rope {
        Rope {
            pieces: VecDeque::new(),
            len: 0,
        }
    }

    /// Octets in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Add octets at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Add octets before all others.
    pub fn push_front(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_front(piece);
        }
    }

    /// Add another rope's octets at the end.
    pub fn append(&mut self, other: Rope) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// The slices in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// Drop the first `count` octets (all of them, if there are fewer).
    pub fn skip(&mut self, mut count: usize) {
        while count > 0
            && let Some(front) = self.pieces.front_mut()
        {
            let part = count.min(front.len());
            bytes::Buf::advance(front, part);
            if front.is_empty() {
                self.pieces.pop_front();
            }
            self.len -= part;
            count -= part;
        }
    }

    /// Take the first `count` octets off (all of them, if there are fewer).
    pub fn take(&mut self, count: usize) -> Rope {
        let mut taken = Rope::new();
        while taken.len < count {
            let Some(mut piece) = self.pieces.pop_front() else {
                break;
            };
            let wanted = count - taken.len;
            if piece.len() > wanted {
                let head = piece.split_to(wanted);
                self.pieces.push_front(piece);
                piece = head;
            }
            self.len -= piece.len();
            taken.push(piece);
        }
        taken
    }

    /// Take the first `count` octets off in one piece; shared if they lie in one slice, otherwise
    /// copied. `None`, and nothing taken, if there are fewer.
    pub fn take_bytes(&mut self, count: usize) -> Option<Bytes> {
        if count > self.len {
            return None;
        }
        if let Some(front) = self.pieces.front_mut()
            && front.len() > count
        {
            self.len -= count;
            return Some(front.split_to(count));
        }
        if self
            .pieces
            .front()
            .is_some_and(|front| front.len() == count)
        {
            self.len -= count;
            return self.pieces.pop_front();
        }
        Some(self.take(count).into_bytes())
    }

    /// Copy the first octets into `out`; how many there were.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        for piece in &self.pieces {
            let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            let count = rest.len().min(piece.len());
            rest[..count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        filled
    }

    /// All octets in one piece; shared if they are one slice already.
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop_front().unwrap_or_default();
        }
        Bytes::from(self.to_vec())
    }

    /// A copy of all octets.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        for piece in &self.pieces {
            out.extend_from_slice(piece);
        }
        out
    }

    /// The slices in order.
    pub fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.pieces.into_iter()
    }
}

impl From<Bytes> for Rope {
    fn from(piece: Bytes) -> Rope {
        let mut rope = Rope::new();
        rope.push(piece);
        rope
    }
}

impl From<Vec<u8>> for Rope {
    fn from(octets: Vec<u8>) -> Rope {
        Rope::from(Bytes::from(octets))
    }
}

impl PartialEq for Rope {
    fn eq(&self, other: &Rope) -> bool {
        self.len == other.len
            && self
                .pieces()
                .flat_map(|piece| piece.iter())
                .eq(other.pieces().flat_map(|piece| piece.iter()))
    }
}

impl Eq for Rope {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&'static [u8]]) -> Rope {
        let mut rope = Rope::new();
        for piece in pieces {
            rope.push(Bytes::from_static(piece));
        }
        rope
    }

    #[test]
    fn taking_across_pieces_keeps_order_and_counts() {
        let mut all = rope(&[b"abc", b"", b"defg", b"h"]);
        let mut seen = Vec::new();
        for count in [0, 1, 3, 2, 9] {
            let before = all.len();
            let part = all.take(count);
            assert_eq!(part.len() + all.len(), before);
            seen.extend(part.to_vec());
        }
        assert_eq!(seen, b"abcdefgh");
        assert!(all.is_empty() && all.take_bytes(1).is_none());
    }

    #[test]
    fn skipping_is_taking_and_letting_go() {
        for count in 0..12 {
            let (mut one, mut other) = (
                rope(&[b"abc", b"defg", b"h"]),
                rope(&[b"abc", b"defg", b"h"]),
            );
            one.skip(count);
            other.take(count);
            assert_eq!((&one, one.len()), (&other, other.len()));
        }
    }

    #[test]
    fn a_single_piece_is_shared_not_copied() {
        let buffer = Bytes::from(alloc::vec![7u8; 100]);
        let mut all = Rope::from(buffer.clone());
        let part = all.take_bytes(40).unwrap();
        assert_eq!(part.as_ptr(), buffer.as_ptr());
    }
}
