//! What a boot loader leaves in memory: PVH's start info or Multiboot2's information.
//!
//! Input: which of the two (one octet), then memory from [`AT`] on, where the information begins.

use godwit_kernel::acpi::Physical;
use godwit_kernel::boot::handover::{Handover, MAX_MODULE};
use godwit_kernel::boot::{multiboot2, pvh};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "handover",
    run,
    seeds,
};

/// Where memory begins.
const AT: u64 = 0x1000;

struct Memory<'a>(&'a [u8]);

impl Physical for Memory<'_> {
    fn bytes(&self, base: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(base.checked_sub(AT)?).ok()?;
        self.0.get(from..from.checked_add(len)?)
    }
}

fn run(input: &[u8]) {
    let (which, memory) = input.split_first().unwrap_or((&0, &[]));
    let memory = Memory(memory);
    let result = match which {
        0 => pvh::read(&memory, AT),
        _ => multiboot2::read(&memory, multiboot2::MAGIC, AT),
    };
    match result {
        Ok(handover) => check(&handover, &memory),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check(handover: &Handover, memory: &Memory<'_>) {
    let ranges: Vec<_> = handover.memory.ranges().collect();
    assert!(ranges.iter().all(|range| range.start < range.end));
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    for module in &handover.modules {
        assert!(module.start < module.end && module.end - module.start <= MAX_MODULE);
    }
    assert!(
        handover
            .command_line
            .bytes()
            .all(|b| (0x20..0x7f).contains(&b))
    );
    // As boot does.
    let mut left = handover.memory.clone();
    handover.keep().for_each(|range| left.remove(range));
    for range in handover.keep().filter(|range| range.start < range.end) {
        assert!(!left.overlaps(range));
    }
    let _ = handover.module_text(memory);
}

fn seeds() -> Vec<Vec<u8>> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let long =
        |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let mut pvh: Vec<u8> = words(&[0x336e_c578, 1, 0, 1]);
    // Modules, command line, root pointer, memory map and its entries.
    pvh.extend(long(&[AT + 56, AT + 88, 0xf_0000, AT + 96, 2]));
    pvh.extend(long(&[AT + 88, 4, 0, 0]));
    pvh.extend(*b"id=1\0\0\0\0");
    pvh.extend(long(&[0, 0xa_0000, 1, 0x9_0000, 0x1_0000, 2]));

    let tag = |kind: u32, body: &[u8]| {
        let mut tag: Vec<u8> = words(&[kind, 8 + body.len() as u32]);
        tag.extend(body);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    };
    let mut map: Vec<u8> = words(&[24, 0]);
    map.extend(long(&[0x10_0000, 0x400_0000, 1, 0x20_0000, 0x1000, 3]));
    let module: Vec<u8> = words(&[AT as u32 + 24, AT as u32 + 28, 0]);
    let mut screen = long(&[0x8000_0000]);
    screen.extend::<Vec<u8>>(words(&[4096, 1024, 768]));
    screen.extend([32, 1, 0, 0, 16, 8, 8, 8, 0, 8]);
    let mut text = long(&[0xb_8000]);
    text.extend::<Vec<u8>>(words(&[160, 80, 25]));
    text.extend([16, 2, 0, 0]);
    let multiboot2 = |tags: &[Vec<u8>]| {
        let body = [tags.concat(), tag(0, &[])].concat();
        let mut all: Vec<u8> = words(&[8 + body.len() as u32, 0]);
        all.extend(body);
        [vec![1], all].concat()
    };
    vec![
        [vec![0], pvh].concat(),
        multiboot2(&[
            tag(1, b"id=1 ip=dhcp\0"),
            tag(3, &module),
            tag(6, &map),
            tag(8, &screen),
            tag(14, b"RSD PTR "),
            tag(15, b"RSD PTR "),
            tag(21, &[0; 4]),
        ]),
        multiboot2(&[tag(6, &map), tag(8, &text)]),
    ]
}
