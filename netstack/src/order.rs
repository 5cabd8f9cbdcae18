//! The order of a few things: members, services, addresses.
//!
//! Of a handful, putting each in its place is as quick as a sort, and the code of it a twentieth of the
//! library's.

use alloc::vec::Vec;

/// These, the least first.
pub(crate) fn in_order<T: Ord>(few: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for one in few {
        all.insert(all.partition_point(|other| *other <= one), one);
    }
    all
}

/// The one that is `nth` from the end when they are in order; the last is the first. `None` if there are
/// fewer, or for the zeroth.
pub(crate) fn nth_last<T: Ord + Copy>(few: impl IntoIterator<Item = T>, nth: usize) -> Option<T> {
    let all = in_order(few);
    all.len()
        .checked_sub(nth)
        .and_then(|at| all.get(at))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_put_in_order() {
        assert_eq!(in_order([3, 1, 2, 3, 0]), [0, 1, 2, 3, 3]);
        assert_eq!(in_order::<u8>([]), []);
    }

    #[test]
    fn the_nth_from_the_end_is_one_that_so_many_reach() {
        let of = |nth| nth_last([5, 9, 7], nth);
        assert_eq!(
            [of(0), of(1), of(2), of(3), of(4)],
            [None, Some(9), Some(7), Some(5), None]
        );
    }
}
