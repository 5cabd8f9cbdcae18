//! The encoding of a capsule's header: integers as LEB128 (signed ones zigzag first), `u8` as itself, `bool`
//! as 0 or 1, options behind a tag of 0 or 1, arrays element by element, lists and strings behind their
//! length. It is what postcard makes of the same fields, which spent half of a whole hand-over on it.
//!
//! A [`Reader`] that met something wrong goes on with zeros and says so at the end: 80 fields are quicker read
//! than 80 results looked at. What is kept out of line is small code that runs 80 times in a move, rather
//! than 40 KiB that run once and are fetched each time.

use alloc::vec::Vec;

/// Octets of an integer of 64 bits at most.
const LONGEST: usize = 10;

/// Something that is written as it is read.
pub(super) trait Wire<'a>: Sized {
    fn put(&self, out: &mut Writer);
    fn take(input: &mut Reader<'a>) -> Self;
}

/// Declares structs whose fields follow each other on the wire.
macro_rules! wire {
    ($($(#[$attribute:meta])* $vis:vis struct $name:ident {
        $($(#[$said:meta])* $field:ident: $kind:ty,)*
    })*) => {$(
        $(#[$attribute])*
        $vis struct $name {
            $($(#[$said])* $field: $kind,)*
        }

        impl<'a> Wire<'a> for $name {
            #[inline(never)]
            fn put(&self, out: &mut Writer) {
                $(self.$field.put(out);)*
            }

            #[inline(never)]
            fn take(input: &mut Reader<'a>) -> Self {
                $name { $($field: Wire::take(input),)* }
            }
        }
    )*};
}
pub(super) use wire;

/// Octets in the making.
pub(super) struct Writer {
    /// Written up to `end`; longer than that, so that most integers are a store.
    octets: Vec<u8>,
    end: usize,
}

impl Writer {
    /// With room for `octets` before it has to grow.
    pub fn with_room(octets: usize) -> Writer {
        Writer {
            octets: alloc::vec![0; octets],
            end: 0,
        }
    }

    /// What was written.
    pub fn finish(mut self) -> Vec<u8> {
        self.octets.truncate(self.end);
        self.octets
    }

    #[inline(never)]
    fn octet(&mut self, octet: u8) {
        match self.octets.get_mut(self.end) {
            Some(place) => {
                *place = octet;
                self.end += 1;
            }
            None => self.raw(&[octet]),
        }
    }

    #[inline(never)]
    fn integer(&mut self, value: u64) {
        match value {
            0..0x80 => self.octet(value as u8),
            _ => self.long_integer(value),
        }
    }

    /// An integer of 128 or more.
    #[inline(never)]
    fn long_integer(&mut self, value: u64) {
        let count = value.ilog2() as usize / 7 + 1;
        match self.octets.get_mut(self.end..self.end + 8) {
            // All eight, whose number is known; what is too much is written over.
            Some(room) if count <= 8 => {
                let more = u64::MAX >> (72 - 8 * count) & 0x8080_8080_8080_8080;
                room.copy_from_slice(&(spread(value) | more).to_le_bytes());
                self.end += count;
            }
            _ => self.any_integer(value),
        }
    }

    #[cold]
    fn any_integer(&mut self, mut value: u64) {
        let mut octets = [0; LONGEST];
        let mut count = 0;
        for place in &mut octets {
            count += 1;
            *place = value as u8 | 0x80;
            value >>= 7;
            if value == 0 {
                *place &= 0x7f;
                break;
            }
        }
        self.raw(&octets[..count]);
    }

    /// Octets as they are.
    #[inline(never)]
    pub fn raw(&mut self, octets: &[u8]) {
        let end = self.end + octets.len();
        if self.octets.len() < end {
            self.octets.resize(2 * end, 0);
        }
        self.octets[self.end..end].copy_from_slice(octets);
        self.end = end;
    }
}

/// Octets that are read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    wrong: bool,
}

impl<'a> Reader<'a> {
    /// All of `octets`.
    pub fn new(octets: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: octets,
            wrong: false,
        }
    }

    /// Nothing was wrong, and nothing is left.
    pub fn is_done(&self) -> bool {
        !self.wrong && self.rest.is_empty()
    }

    /// Something was wrong: what was read means nothing.
    pub fn is_wrong(&self) -> bool {
        self.wrong
    }

    /// What is read is not what it should be.
    #[cold]
    pub fn fail(&mut self) {
        self.wrong = true;
        self.rest = &[];
    }

    #[inline(never)]
    fn octet(&mut self) -> u8 {
        match self.rest {
            [octet, rest @ ..] => {
                self.rest = rest;
                *octet
            }
            [] => {
                self.fail();
                0
            }
        }
    }

    /// An integer of at most `most`, which is 127 or more.
    #[inline(never)]
    fn integer(&mut self, most: u64) -> u64 {
        if let [octet @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return u64::from(*octet);
        }
        let value = self.long_integer();
        if value > most {
            self.fail();
        }
        value
    }

    #[inline]
    fn long_integer(&mut self) -> u64 {
        if let Some((octets, _)) = self.rest.split_first_chunk() {
            let octets = u64::from_le_bytes(*octets);
            let stops = !octets & 0x8080_8080_8080_8080;
            if stops != 0 {
                let last = stops.trailing_zeros();
                self.rest = &self.rest[last as usize / 8 + 1..];
                return gather(octets & u64::MAX >> (63 - last));
            }
        }
        self.any_integer()
    }

    #[cold]
    fn any_integer(&mut self) -> u64 {
        let mut value = 0;
        for (place, octet) in self.rest.iter().take(LONGEST).enumerate() {
            let bits = u64::from(octet & 0x7f);
            value |= bits << (7 * place);
            if *octet < 0x80 {
                self.rest = &self.rest[place + 1..];
                if place == LONGEST - 1 && bits > 1 {
                    break;
                }
                return value;
            }
        }
        self.fail();
        0
    }

    /// Octets as they are.
    fn raw(&mut self, count: usize) -> &'a [u8] {
        match self.rest.split_at_checked(count) {
            Some((octets, rest)) => {
                self.rest = rest;
                octets
            }
            None => {
                self.fail();
                &[]
            }
        }
    }
}

/// 56 bits, seven to an octet: LEB128 but for the bits that say whether more follows.
fn spread(value: u64) -> u64 {
    let value = value & 0x0fff_ffff | (value & 0x00ff_ffff_f000_0000) << 4;
    let value = value & 0x0000_3fff_0000_3fff | (value & 0x0fff_c000_0fff_c000) << 2;
    value & 0x007f_007f_007f_007f | (value & 0x3f80_3f80_3f80_3f80) << 1
}

/// The 56 bits of what [`spread`] made; the topmost bit of an octet counts for nothing.
fn gather(octets: u64) -> u64 {
    let value = octets & 0x007f_007f_007f_007f | (octets & 0x7f00_7f00_7f00_7f00) >> 1;
    let value = value & 0x0000_3fff_0000_3fff | (value & 0x3fff_0000_3fff_0000) >> 2;
    value & 0x0fff_ffff | (value & 0x0fff_ffff_0000_0000) >> 4
}

macro_rules! unsigned {
    ($($kind:ty)*) => {$(
        impl<'a> Wire<'a> for $kind {
            #[inline]
            fn put(&self, out: &mut Writer) {
                out.integer(*self as u64);
            }

            #[inline]
            fn take(input: &mut Reader<'a>) -> Self {
                // What is larger is wrong, and means nothing.
                input.integer(<$kind>::MAX as u64) as $kind
            }
        }
    )*};
}
unsigned!(u16 u32 u64 usize);

impl<'a> Wire<'a> for i64 {
    #[inline]
    fn put(&self, out: &mut Writer) {
        out.integer((self << 1 ^ self >> 63) as u64);
    }

    #[inline]
    fn take(input: &mut Reader<'a>) -> Self {
        let value = input.integer(u64::MAX);
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }
}

impl<'a> Wire<'a> for i32 {
    #[inline]
    fn put(&self, out: &mut Writer) {
        out.integer(u64::from((self << 1 ^ self >> 31) as u32));
    }

    #[inline]
    fn take(input: &mut Reader<'a>) -> Self {
        let value = input.integer(u64::from(u32::MAX)) as u32;
        (value >> 1) as i32 ^ -((value & 1) as i32)
    }
}

impl<'a> Wire<'a> for u8 {
    #[inline]
    fn put(&self, out: &mut Writer) {
        out.octet(*self);
    }

    #[inline]
    fn take(input: &mut Reader<'a>) -> Self {
        input.octet()
    }
}

impl<'a> Wire<'a> for bool {
    #[inline]
    fn put(&self, out: &mut Writer) {
        out.octet(u8::from(*self));
    }

    #[inline]
    fn take(input: &mut Reader<'a>) -> Self {
        match input.octet() {
            0 => false,
            1 => true,
            _ => {
                input.fail();
                false
            }
        }
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    #[inline]
    fn put(&self, out: &mut Writer) {
        out.octet(u8::from(self.is_some()));
        if let Some(value) = self {
            value.put(out);
        }
    }

    #[inline]
    fn take(input: &mut Reader<'a>) -> Self {
        bool::take(input).then(|| T::take(input))
    }
}

impl<'a, const N: usize> Wire<'a> for [u8; N] {
    #[inline]
    fn put(&self, out: &mut Writer) {
        out.raw(self);
    }

    #[inline]
    fn take(input: &mut Reader<'a>) -> Self {
        input.raw(N).try_into().unwrap_or([0; N])
    }
}

impl<'a> Wire<'a> for &'a str {
    fn put(&self, out: &mut Writer) {
        self.len().put(out);
        out.raw(self.as_bytes());
    }

    fn take(input: &mut Reader<'a>) -> Self {
        let length = usize::take(input);
        core::str::from_utf8(input.raw(length)).unwrap_or_else(|_| {
            input.fail();
            ""
        })
    }
}

macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<'a, $($name: Wire<'a>),*> Wire<'a> for ($($name,)*) {
            #[inline]
            #[expect(non_snake_case, reason = "a type's name names the place of that type")]
            fn put(&self, out: &mut Writer) {
                let ($($name,)*) = self;
                $($name.put(out);)*
            }

            #[inline]
            fn take(input: &mut Reader<'a>) -> Self {
                ($($name::take(input),)*)
            }
        }
    )*};
}
tuples! {
    A B;
    A B C;
    A B C D;
}

/// A list whose length is checked before room is made for it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Capped<T, const MAX: usize>(pub Vec<T>);

/// Elements that room is made for before they are there.
const EARLY: usize = 16;

impl<'a, T: Wire<'a>, const MAX: usize> Wire<'a> for Capped<T, MAX> {
    fn put(&self, out: &mut Writer) {
        self.0.len().put(out);
        self.0.iter().for_each(|element| element.put(out));
    }

    fn take(input: &mut Reader<'a>) -> Self {
        let length = usize::take(input);
        if length > MAX {
            input.fail();
            return Capped(Vec::new());
        }
        // A short input may claim a long list: the vector grows with what is really there.
        let mut list = Vec::with_capacity(length.min(EARLY));
        for _ in 0..length {
            list.push(T::take(input));
            if input.is_wrong() {
                break;
            }
        }
        Capped(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use core::fmt::Debug;

    fn same<T: for<'a> Wire<'a> + serde::Serialize + PartialEq + Debug>(value: T) {
        let octets = postcard::to_allocvec(&value).unwrap();
        // Without and with room to write more than is needed, or to read it.
        for room in [0, 64] {
            let mut out = Writer::with_room(room);
            value.put(&mut out);
            assert_eq!(out.finish(), octets, "{value:?} with room for {room}");
            for behind in [0, 0x7f, 0xff] {
                let longer = [&octets[..], &vec![behind; room]].concat();
                let mut input = Reader::new(&longer);
                assert_eq!(
                    T::take(&mut input),
                    value,
                    "{room} times {behind} behind it"
                );
                assert!(!input.is_wrong() && input.rest.len() == room);
            }
        }
        for end in 0..octets.len() {
            let mut input = Reader::new(&octets[..end]);
            T::take(&mut input);
            assert!(!input.is_done(), "{value:?} cut at {end}");
        }
    }

    #[test]
    fn it_is_what_postcard_writes() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) - 1, u64::MAX << shift] {
                same(value);
                same(value as i64);
                same(value as i32);
                same(value as u16);
                same((value as u32, Some((value as u8, shift % 2 == 0))));
                same([value as u8; 6]);
            }
        }
        same(None::<u8>);
    }

    #[test]
    fn numbers_out_of_range_are_wrong() {
        let too_large = |octets: &[u8]| {
            let mut input = Reader::new(octets);
            u64::take(&mut input);
            !input.is_done()
        };
        assert!(too_large(&[0xff; 11]));
        assert!(too_large(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]));
        assert!(!too_large(&[
            255, 255, 255, 255, 255, 255, 255, 255, 255, 1
        ]));
        for octets in [&[0x80, 0x80, 4][..], &[0xff, 0xff, 0xff, 0x7f]] {
            let mut input = Reader::new(octets);
            u16::take(&mut input);
            assert!(input.is_wrong());
        }
        let mut input = Reader::new(&[2, 0, 0]);
        bool::take(&mut input);
        assert!(input.is_wrong());
    }

    #[test]
    fn a_list_longer_than_allowed_or_than_what_is_there_is_wrong() {
        let mut input = Reader::new(&[3, 1, 2, 3]);
        Capped::<u8, 2>::take(&mut input);
        assert!(input.is_wrong());
        let mut input = Reader::new(&[200, 1, 2, 3]);
        let list = Capped::<u32, 1000>::take(&mut input);
        assert!(input.is_wrong() && list.0.capacity() <= EARLY);
    }
}
