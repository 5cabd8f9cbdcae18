//! Function names for addresses, from a table the image carries.
//!
//! `godwit build` appends the table to the linked image as a segment of its own. Layout, all
//! little-endian: 8 bytes magic, `count: u32`, `names: u32`, `words: u32`, then `count + 1` pairs
//! `(address: u32, name: u32)` sorted by address, then `names` bytes of names, then `words` bytes of
//! words. A name reaches from its offset to the next pair's; the last pair is the end of the code.
//!
//! Names repeat each other, and would be a tenth of the image if they were written out. So they are
//! made of words: a byte below 128 is the number of a word, one above it and the next byte are
//! together the number of a word beyond those. Words are UTF-8 behind a byte with their length.

use core::fmt;

/// The first bytes of a table.
pub const MAGIC: [u8; 8] = *b"GWSYMS\x02\0";
/// The length of what comes before the pairs.
pub(crate) const HEADER: usize = 20;
const PAIR: usize = 8;
/// Words that one byte stands for.
const SHORT: u8 = 128;

/// A symbol table in memory.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    pairs: &'a [[u8; PAIR]],
    names: &'a [u8],
    words: &'a [u8],
}

impl<'a> Table<'a> {
    /// Takes the table at the start of `bytes`; `None` if there is none or it is cut short.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::parse(bytes)?;
        let rest = bytes.get(HEADER..)?;
        let (pairs, rest) = rest.split_at_checked(header.pairs()?)?;
        let (names, rest) = rest.split_at_checked(header.names)?;
        Some(Self {
            pairs: pairs.as_chunks().0,
            names,
            words: rest.get(..header.words)?,
        })
    }

    /// The function `address` lies in, and how far behind its start.
    pub fn find(&self, address: u64) -> Option<(Name<'a>, u64)> {
        let address = u32::try_from(address).ok()?;
        let after = self.pairs.partition_point(|pair| decode(pair).0 <= address);
        let (start, from) = decode(self.pairs.get(after.checked_sub(1)?)?);
        let (_, to) = decode(self.pairs.get(after)?);
        let name = Name {
            codes: self.names.get(from as usize..to as usize)?,
            words: self.words,
        };
        Some((name, u64::from(address - start)))
    }
}

/// A name in a table, to be displayed.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    codes: &'a [u8],
    words: &'a [u8],
}

impl Name<'_> {
    fn word(&self, number: usize) -> Option<&str> {
        let mut rest = self.words;
        for _ in 0..number {
            let (len, more) = rest.split_first()?;
            rest = more.get(usize::from(*len)..)?;
        }
        let (len, more) = rest.split_first()?;
        str::from_utf8(more.get(..usize::from(*len))?).ok()
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut codes = self.codes.iter().copied();
        while let Some(code) = codes.next() {
            let number = match code.checked_sub(SHORT) {
                None => usize::from(code),
                Some(high) => {
                    let low = codes.next().unwrap_or_default();
                    usize::from(SHORT) + usize::from(u16::from_be_bytes([high, low]))
                }
            };
            f.write_str(self.word(number).unwrap_or("?"))?;
        }
        Ok(())
    }
}

fn decode(pair: &[u8; PAIR]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *pair;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// What the first bytes of a table say about it.
pub(crate) struct Header {
    count: usize,
    names: usize,
    words: usize,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (numbers, rest) = rest.split_first_chunk::<8>()?;
        let (count, names) = decode(numbers);
        Some(Self {
            count: count as usize,
            names: names as usize,
            words: u32::from_le_bytes(*rest.first_chunk()?) as usize,
        })
    }

    fn pairs(&self) -> Option<usize> {
        self.count.checked_add(1)?.checked_mul(PAIR)
    }

    /// The length of the whole table, in bytes.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    pub(crate) fn len(&self) -> Option<usize> {
        let pairs = self.pairs()?.checked_add(HEADER)?;
        pairs.checked_add(self.names)?.checked_add(self.words)
    }
}

/// An address in code, written as the function it lies in where that is known.
#[cfg(godwit_image)]
#[derive(Clone, Copy, Debug)]
pub struct Place(pub u64);

#[cfg(godwit_image)]
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match table().and_then(|table| table.find(self.0)) {
            Some((name, offset)) => write!(f, "{:#010x} {name}+{offset:#x}", self.0),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

/// The table of the running image.
#[cfg(godwit_image)]
pub fn table() -> Option<Table<'static>> {
    Table::parse(crate::mm::symbols())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each name is codes; word `n` is `words[n]`.
    fn build(symbols: &[(u32, &[u8])], end: u32, words: &[&str]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let names: Vec<u8> = symbols
            .iter()
            .flat_map(|symbol| symbol.1)
            .copied()
            .collect();
        let each = |word: &&str| [&[word.len() as u8], word.as_bytes()].concat();
        let words: Vec<u8> = words.iter().flat_map(each).collect();
        bytes.extend((symbols.len() as u32).to_le_bytes());
        bytes.extend((names.len() as u32).to_le_bytes());
        bytes.extend((words.len() as u32).to_le_bytes());
        let mut at = 0u32;
        for (address, name) in symbols {
            bytes.extend(address.to_le_bytes());
            bytes.extend(at.to_le_bytes());
            at += name.len() as u32;
        }
        bytes.extend(end.to_le_bytes());
        bytes.extend(at.to_le_bytes());
        bytes.extend(names);
        bytes.extend(words);
        bytes
    }

    fn find(bytes: &[u8], address: u64) -> Option<(String, u64)> {
        let found = Table::parse(bytes)?.find(address);
        found.map(|(name, offset)| (name.to_string(), offset))
    }

    #[test]
    fn addresses_find_the_function_they_lie_in() {
        let symbols: [(u32, &[u8]); 2] = [(0x1000, &[0, 1]), (0x1010, &[0, 0, 2])];
        let bytes = build(&symbols, 0x1020, &["a::", "first", "second"]);
        let first = |offset| Some(("a::first".into(), offset));
        assert_eq!(find(&bytes, 0xfff), None);
        assert_eq!(find(&bytes, 0x1000), first(0));
        assert_eq!(find(&bytes, 0x100f), first(15));
        assert_eq!(find(&bytes, 0x101f), Some(("a::a::second".into(), 15)));
        assert_eq!(find(&bytes, 0x1020), None);
        assert_eq!(find(&bytes, u64::MAX), None);
    }

    #[test]
    fn words_beyond_the_short_ones_take_two_bytes() {
        let words: Vec<String> = (0..500).map(|n| format!("<{n}>")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let symbols: [(u32, &[u8]); 1] = [(0, &[127, 128, 0, 129, 1, 255, 255])];
        let bytes = build(&symbols, 1, &words);
        let expected = "<127><128><385>?";
        assert_eq!(find(&bytes, 0), Some((expected.into(), 0)));
    }

    #[test]
    fn a_table_cut_short_is_refused() {
        let bytes = build(&[(0x1000, &[0])], 0x1020, &["first"]);
        for len in 0..bytes.len() {
            assert!(Table::parse(&bytes[..len]).is_none());
        }
    }

    proptest! {
        #[test]
        fn damage_does_not_panic(noise in prop::collection::vec(any::<u8>(), 12..80), address in 0u64..1 << 33) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            find(&bytes, address);
            let mut small = bytes.clone();
            small[8..20].fill(0);
            (small[8], small[12], small[16]) = (1, bytes[12] % 20, bytes[16] % 20);
            for address in [0, address] {
                find(&small, address);
            }
        }
    }
}
