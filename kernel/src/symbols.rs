//! Function names for addresses, from a table the image carries.
//!
//! `godwit build` appends the table to the linked image as a segment of its own. Layout, all
//! little-endian: 8 bytes magic, `count: u32`, `names: u32`, then `count + 1` pairs
//! `(address: u32, name: u32)` sorted by address, then `names` bytes of UTF-8. A name reaches from
//! its offset to the next pair's; the last pair is the end of the code.

/// The first bytes of a table.
pub const MAGIC: [u8; 8] = *b"GWSYMS\x01\0";
/// The length of what comes before the pairs.
pub(crate) const HEADER: usize = 16;
const PAIR: usize = 8;

/// A symbol table in memory.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    pairs: &'a [[u8; PAIR]],
    names: &'a [u8],
}

impl<'a> Table<'a> {
    /// Takes the table at the start of `bytes`; `None` if there is none or it is cut short.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::parse(bytes)?;
        let rest = bytes.get(HEADER..)?;
        let (pairs, rest) = rest.split_at_checked(header.pairs()?)?;
        Some(Self {
            pairs: pairs.as_chunks().0,
            names: rest.get(..header.names)?,
        })
    }

    /// The function `address` lies in, and how far behind its start.
    pub fn find(&self, address: u64) -> Option<(&'a str, u64)> {
        let address = u32::try_from(address).ok()?;
        let after = self.pairs.partition_point(|pair| decode(pair).0 <= address);
        let (start, from) = decode(self.pairs.get(after.checked_sub(1)?)?);
        let (_, to) = decode(self.pairs.get(after)?);
        let name = self.names.get(from as usize..to as usize)?;
        Some((str::from_utf8(name).ok()?, u64::from(address - start)))
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
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (numbers, _) = rest.split_first_chunk::<8>()?;
        let (count, names) = decode(numbers);
        Some(Self {
            count: count as usize,
            names: names as usize,
        })
    }

    fn pairs(&self) -> Option<usize> {
        self.count.checked_add(1)?.checked_mul(PAIR)
    }

    /// The length of the whole table, in bytes.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    pub(crate) fn len(&self) -> Option<usize> {
        self.pairs()?.checked_add(self.names)?.checked_add(HEADER)
    }
}

/// An address in code, written as the function it lies in where that is known.
#[cfg(godwit_image)]
#[derive(Clone, Copy, Debug)]
pub struct Place(pub u64);

#[cfg(godwit_image)]
impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
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

    fn build(symbols: &[(u32, &str)], end: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let names: String = symbols.iter().map(|symbol| symbol.1).collect();
        bytes.extend((symbols.len() as u32).to_le_bytes());
        bytes.extend((names.len() as u32).to_le_bytes());
        let mut at = 0u32;
        for (address, name) in symbols {
            bytes.extend(address.to_le_bytes());
            bytes.extend(at.to_le_bytes());
            at += name.len() as u32;
        }
        bytes.extend(end.to_le_bytes());
        bytes.extend(at.to_le_bytes());
        bytes.extend(names.bytes());
        bytes
    }

    #[test]
    fn addresses_find_the_function_they_lie_in() {
        let bytes = build(&[(0x1000, "first"), (0x1010, "second")], 0x1020);
        let table = Table::parse(&bytes).unwrap();
        assert_eq!(table.find(0xfff), None);
        assert_eq!(table.find(0x1000), Some(("first", 0)));
        assert_eq!(table.find(0x101f), Some(("second", 15)));
        assert_eq!(table.find(0x1020), None);
        assert_eq!(table.find(u64::MAX), None);
    }

    #[test]
    fn a_table_cut_short_is_refused() {
        let bytes = build(&[(0x1000, "first")], 0x1020);
        for len in 0..bytes.len() {
            assert!(Table::parse(&bytes[..len]).is_none());
        }
    }

    proptest! {
        #[test]
        fn damage_does_not_panic(noise in prop::collection::vec(any::<u8>(), 8..80), address in 0u64..1 << 33) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            if let Some(table) = Table::parse(&bytes) {
                table.find(address);
            }
        }
    }
}
