//! Function names for addresses, from a table the image carries.
//!
//! `godwit build` appends the table to the linked image as a segment of its own. Layout, all
//! little-endian: 8 bytes magic, `functions: u32` (bytes of what follows), `rules: u32` (how many), 8 bytes
//! that no other build has, then the functions in the order of their addresses, then the rules, three bytes each.
//!
//! A function is how far it begins behind the one before, the length of its name in bytes (both seven
//! bits to a byte, the lower ones first, the last byte below 128) and the name. The last one is the end of
//! the code and has no name.
//!
//! Names repeat each other, and would be a tenth of the image if they were written out. So a name is
//! made of characters and of rules, each of which stands for two of what names are made of, in twelve bits
//! each: 32 to 127 are ASCII characters, the others the numbers of rules, 0 to 31 as they are and 32 as 128 and
//! so on. In a name the latter take two bytes, the first of them from 128 on.

use core::fmt::{self, Write};

/// The first bytes of a table.
pub const MAGIC: [u8; 8] = *b"GWSYMS\x04\0";
/// The length of what comes before the functions.
pub(crate) const HEADER: usize = 24;
const RULE: usize = 3;
/// Codes from here on take two bytes, and are the numbers of rules from [`SHORT`] on.
const LONG: u16 = 128;
/// Rules that one byte stands for; their numbers are those of ASCII's control characters.
const SHORT: u16 = 32;
/// A name is at most this long, or the table is damaged.
const LONGEST: usize = 4096;
/// Rules are at most this deep in each other, or the table is damaged.
const DEEPEST: usize = 32;

/// A symbol table in memory.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    functions: &'a [u8],
    rules: &'a [[u8; RULE]],
}

impl<'a> Table<'a> {
    /// Takes the table at the start of `bytes`; `None` if there is none or it is cut short.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::parse(bytes)?;
        let rest = bytes.get(HEADER..)?;
        let (functions, rest) = rest.split_at_checked(header.functions)?;
        let rules = rest.get(..header.rules.checked_mul(RULE)?)?;
        Some(Self {
            functions,
            rules: rules.as_chunks().0,
        })
    }

    /// The function `address` lies in, and how far behind its start.
    pub fn find(&self, address: u64) -> Option<(Name<'a>, u64)> {
        let mut rest = self.functions;
        let mut start = 0u64;
        let mut found = None;
        loop {
            let next = start.checked_add(number(&mut rest)?)?;
            if address < next {
                return found.map(|name| (name, address - start));
            }
            start = next;
            let length = usize::try_from(number(&mut rest)?).ok()?;
            let (codes, more) = rest.split_at_checked(length)?;
            rest = more;
            found = Some(Name {
                codes,
                rules: self.rules,
            });
        }
    }
}

/// Takes a number off the front of `rest`.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A name in a table, to be displayed.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    codes: &'a [u8],
    rules: &'a [[u8; RULE]],
}

impl Name<'_> {
    /// The two that a code stands for; none if it is a character.
    fn rule(&self, code: u16) -> Option<[u16; 2]> {
        let number = match code {
            0..SHORT => code,
            _ => code.checked_sub(LONG)? + SHORT,
        };
        let damaged = [u16::from(b'?'); 2];
        let rule = self.rules.get(usize::from(number));
        Some(rule.map_or(damaged, |&[a, b, c]| {
            let [a, b, c] = [a, b, c].map(u16::from);
            [a | (b & 0xf) << 8, b >> 4 | c << 4]
        }))
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut codes = self.codes.iter().copied().map(u16::from);
        let mut room = LONGEST;
        let mut waiting = heapless::Vec::<u16, DEEPEST>::new();
        while let Some(first) = codes.next() {
            let mut code = Some(match first.checked_sub(LONG) {
                None => first,
                Some(high) => LONG + (high << 8) + codes.next().unwrap_or_default(),
            });
            while let Some(this) = code {
                if room == 0 {
                    return f.write_str("?");
                }
                room -= 1;
                code = match self.rule(this) {
                    None => {
                        f.write_char(this as u8 as char)?;
                        waiting.pop()
                    }
                    Some([this, next]) if waiting.push(next).is_ok() => Some(this),
                    Some(_) => return f.write_str("?"),
                };
            }
        }
        Ok(())
    }
}

/// What the first bytes of a table say about it.
pub(crate) struct Header {
    functions: usize,
    rules: usize,
    build: u64,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let [functions, rules, low, high] =
            (*rest.as_chunks().0.first_chunk()?).map(u32::from_le_bytes);
        Some(Self {
            functions: functions as usize,
            rules: rules as usize,
            build: u64::from(high) << 32 | u64::from(low),
        })
    }

    /// The length of the whole table, in bytes.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    pub(crate) fn len(&self) -> Option<usize> {
        let functions = self.functions.checked_add(HEADER)?;
        functions.checked_add(self.rules.checked_mul(RULE)?)
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

/// What the running image has in common with no other build; 0 if it has no table.
pub fn build() -> u64 {
    Header::parse(crate::mm::symbols()).map_or(0, |header| header.build)
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

    /// Each function is how far it is behind the one before, and its name's codes.
    fn build(functions: &[(u8, &[u8])], rules: &[[u16; 2]]) -> Vec<u8> {
        let each = |(gap, name): &(u8, &[u8])| [&[*gap, name.len() as u8], *name].concat();
        let functions: Vec<u8> = functions.iter().flat_map(each).collect();
        let mut bytes = MAGIC.to_vec();
        bytes.extend((functions.len() as u32).to_le_bytes());
        bytes.extend((rules.len() as u32).to_le_bytes());
        bytes.extend(0x0123_4567_89ab_cdef_u64.to_le_bytes());
        bytes.extend(functions);
        let pack = |[a, b]: &[u16; 2]| [*a as u8, (a >> 8 | b << 4) as u8, (b >> 4) as u8];
        bytes.extend(rules.iter().flat_map(pack));
        bytes
    }

    fn find(bytes: &[u8], address: u64) -> Option<(String, u64)> {
        let found = Table::parse(bytes)?.find(address);
        found.map(|(name, offset)| (name.to_string(), offset))
    }

    #[test]
    fn addresses_find_the_function_they_lie_in() {
        let bytes = build(&[(0x70, b"first"), (0x10, b"second"), (0x10, b"")], &[]);
        let first = |offset| Some(("first".into(), offset));
        assert_eq!(find(&bytes, 0x6f), None);
        assert_eq!(find(&bytes, 0x70), first(0));
        assert_eq!(find(&bytes, 0x7f), first(15));
        assert_eq!(find(&bytes, 0x8f), Some(("second".into(), 15)));
        assert_eq!(find(&bytes, 0x90), None);
        assert_eq!(find(&bytes, u64::MAX), None);
    }

    #[test]
    fn rules_stand_for_two_characters_or_rules() {
        let mut rules = vec![[u16::from(b'-'); 2]; 300];
        let code = |rule: u16| rule + LONG - SHORT;
        rules[3] = [b'a', b'b'].map(u16::from);
        rules[299] = [3, code(40)];
        let far = (code(299) - LONG).to_be_bytes();
        let name = [b'<', 3, 128 + far[0], far[1], b'>'];
        let bytes = build(&[(0, &name), (1, b"")], &rules);
        assert_eq!(find(&bytes, 0), Some(("<abab-->".into(), 0)));
    }

    #[test]
    fn a_rule_that_never_ends_is_left() {
        for rules in [&[[0, 0]][..], &[[65, 0]], &[[0, 65]], &[]] {
            let name = find(&build(&[(0, &[0]), (1, &[])], rules), 0);
            assert!(name.unwrap().0.ends_with('?'));
        }
    }

    #[test]
    fn a_table_cut_short_is_refused() {
        let bytes = build(&[(0x10, b"first"), (0x20, b"")], &[[65, 66]]);
        let build = Header::parse(&bytes).map(|header| header.build);
        assert_eq!(build, Some(0x0123_4567_89ab_cdef));
        for len in 0..bytes.len() {
            assert!(Table::parse(&bytes[..len]).is_none());
        }
    }

    proptest! {
        #[test]
        fn damage_does_not_panic(noise in prop::collection::vec(any::<u8>(), 16..80), address in 0u64..1 << 33) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            find(&bytes, address);
            let mut small = bytes.clone();
            small[8..16].fill(0);
            (small[8], small[12]) = (bytes[8] % 40, bytes[12] % 10);
            for address in [0, address] {
                find(&small, address);
            }
        }
    }
}
