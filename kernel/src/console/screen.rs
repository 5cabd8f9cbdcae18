//! The screen: what goes out on the serial interface, for who stands before the machine.
//!
//! Two kinds of it, as the boot loader hands them over: VGA text (BIOS) and a framebuffer (UEFI, or
//! BIOS with a graphics mode). Both show a [`Grid`] of characters; only cells that have changed are
//! drawn, so scrolling never reads from the screen, which is slow, and costs what has changed. Even
//! that may be milliseconds, so it is done in pieces while nothing else is to be done.

use font8x8::legacy::BASIC_LEGACY;

use crate::arch::x86_64::port::{VGA_DATA, VGA_INDEX};
use crate::mmio::Mmio;
use crate::sync::{Lock, Once};

/// The glyphs of ASCII; the lowest bit of an octet is its leftmost pixel.
static FONT: [[u8; 8]; 128] = BASIC_LEGACY;
/// A glyph's size; rows of the font are drawn twice.
const GLYPH: (usize, usize) = (8, 16);
const MAX_COLUMNS: usize = 160;
const MAX_ROWS: usize = 64;
const CELLS: usize = MAX_COLUMNS * MAX_ROWS;
/// What is drawn at a time: some tenths of a millisecond under emulation.
const PIECE: usize = 64;
/// Grey on black.
const ATTRIBUTE: u16 = 0x0700;

static GRID: Lock<Grid> = Lock::new(Grid::new());
static CANVAS: Once<Canvas> = Once::new();

/// A screen whose size and shape make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// VGA text: two octets a cell, the character first.
    Text {
        /// Physical address.
        address: u64,
        /// Octets from one row to the next.
        pitch: usize,
        /// Cells in a row.
        columns: usize,
        /// Rows.
        rows: usize,
    },
    /// A linear framebuffer.
    Pixels(Pixels),
}

/// A linear framebuffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Physical address.
    pub address: u64,
    /// Octets from one row to the next.
    pub pitch: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bits of a pixel.
    pub bits: u8,
    /// A white pixel.
    pub white: u32,
}

/// No screen is wider or higher.
const MAX_SIDE: u32 = 1 << 14;

impl Screen {
    /// A screen of characters, if it makes sense.
    pub fn text(address: u64, pitch: u32, columns: u32, rows: u32) -> Option<Self> {
        let sides = 1..=MAX_SIDE;
        let fits = sides.contains(&columns) && sides.contains(&rows) && pitch <= 2 * MAX_SIDE;
        let aligned = address != 0 && address.is_multiple_of(2) && pitch.is_multiple_of(2);
        (fits && aligned && pitch >= columns * 2).then_some(Self::Text {
            address,
            pitch: pitch as usize,
            columns: columns as usize,
            rows: rows as usize,
        })
    }

    /// A screen of pixels, if it makes sense.
    pub fn pixels(pixels: Pixels) -> Option<Self> {
        let sides = GLYPH.1 as u32..=MAX_SIDE;
        let fits = sides.contains(&pixels.width) && sides.contains(&pixels.height);
        let octets = u32::from(pixels.bits).div_ceil(8);
        let unit = match octets {
            4 => 4,
            3 => 1,
            2 => 2,
            _ => return None,
        };
        let pitch = pixels.pitch;
        let aligned = pixels.address.is_multiple_of(unit) && u64::from(pitch).is_multiple_of(unit);
        let roomy = fits && (pixels.width * octets..=4 * MAX_SIDE).contains(&pitch);
        (roomy && aligned && pixels.address != 0).then_some(Self::Pixels(pixels))
    }

    /// Octets from the first to behind the last.
    fn len(&self) -> usize {
        match self {
            Self::Text { pitch, rows, .. } => pitch * rows,
            Self::Pixels(pixels) => pixels.pitch as usize * pixels.height as usize,
        }
    }

    /// Columns and rows of characters.
    fn cells(&self) -> (usize, usize) {
        match self {
            Self::Text { columns, rows, .. } => (*columns, *rows),
            Self::Pixels(pixels) => {
                let size = GLYPH.1 * pixels.scale() / 2;
                let columns = pixels.width as usize / size;
                (columns, pixels.height as usize / (size * 2))
            }
        }
    }
}

impl Pixels {
    /// How many pixels of the screen a pixel of a glyph is wide and high: on a screen with many, more
    /// than one, or nobody could read it.
    fn scale(&self) -> usize {
        (self.width as usize).div_ceil(GLYPH.0 * MAX_COLUMNS).max(1)
    }
}

/// A screen whose memory is mapped.
struct Canvas {
    screen: Screen,
    memory: Mmio,
}

impl Canvas {
    fn clear(&self) {
        let Screen::Pixels(pixels) = self.screen else {
            return;
        };
        let wide = pixels.pitch.is_multiple_of(4) && pixels.address.is_multiple_of(4);
        if wide {
            (0..self.memory.len() / 4).for_each(|word| self.memory.write32(word * 4, 0));
        } else {
            (0..self.memory.len()).for_each(|at| self.memory.write8(at, 0));
        }
    }

    fn draw(&self, column: usize, row: usize, character: u8) {
        match self.screen {
            Screen::Text { pitch, .. } => {
                let cell = ATTRIBUTE | u16::from(character);
                self.memory.write16(row * pitch + column * 2, cell);
            }
            Screen::Pixels(pixels) => self.draw_glyph(&pixels, column, row, character),
        }
    }

    fn draw_glyph(&self, pixels: &Pixels, column: usize, row: usize, character: u8) {
        let scale = pixels.scale();
        let (width, height) = (GLYPH.0 * scale, GLYPH.1 * scale);
        let octets = usize::from(pixels.bits.div_ceil(8));
        let [white, ..] = &FONT; // for an octet that is no character, the empty glyph
        let glyph = FONT.get(usize::from(character)).unwrap_or(white);
        for y in 0..height {
            let bits = glyph[y / (2 * scale) % glyph.len()];
            let mut at = (row * height + y) * pixels.pitch as usize + column * width * octets;
            for x in 0..width {
                let lit = bits >> (x / scale) & 1 != 0;
                let colour = if lit { pixels.white } else { 0 };
                match octets {
                    4 => self.memory.write32(at, colour),
                    2 => self.memory.write16(at, colour as u16),
                    _ => {
                        for (octet, value) in (at..at + 3).zip(colour.to_le_bytes()) {
                            self.memory.write8(octet, value);
                        }
                    }
                }
                at += octets;
            }
        }
    }
}

/// The characters that are to be seen, and those that can be seen.
struct Grid {
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
    /// Cells before this one show what they should.
    settled: usize,
    wanted: [u8; CELLS],
    shown: [u8; CELLS],
}

impl Grid {
    const fn new() -> Self {
        Self {
            columns: 0,
            rows: 0,
            column: 0,
            row: 0,
            settled: 0,
            wanted: [0; CELLS],
            shown: [0; CELLS],
        }
    }

    /// Empties it; `shown` is what every cell of the screen holds.
    fn reset(&mut self, (columns, rows): (usize, usize), shown: u8) {
        self.columns = columns.min(MAX_COLUMNS);
        self.rows = rows.min(MAX_ROWS);
        (self.column, self.row) = (0, 0);
        self.wanted.fill(b' ');
        self.shown.fill(shown);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.settled = 0;
        for &byte in bytes {
            match byte {
                b'\n' => self.next_row(),
                b'\r' => self.column = 0,
                0x80..=0xbf => {} // the rest of a character beyond ASCII
                b' '..=b'~' => self.put(byte),
                _ => self.put(b'?'),
            }
        }
    }

    fn put(&mut self, byte: u8) {
        if self.column >= self.columns {
            self.column = 0;
            self.next_row();
        }
        if let Some(cell) = self.wanted.get_mut(self.row * self.columns + self.column) {
            *cell = byte;
        }
        self.column += 1;
    }

    fn next_row(&mut self) {
        if self.row + 1 < self.rows {
            self.row += 1;
            return;
        }
        let end = self.columns * self.rows;
        if let Some(cells) = self.wanted.get_mut(..end)
            && self.columns < end
        {
            cells.copy_within(self.columns.., 0);
            cells[end - self.columns..].fill(b' ');
        }
    }

    /// Calls `draw` with cells that do not show what they should, `most` at most. Whether that was
    /// all.
    fn settle(&mut self, most: usize, mut draw: impl FnMut(usize, usize, u8)) -> bool {
        let mut drawn = 0;
        let end = (self.columns * self.rows).min(CELLS);
        while self.settled < end {
            let at = self.settled;
            if self.wanted[at] != self.shown[at] {
                if drawn == most {
                    return false;
                }
                draw(at % self.columns, at / self.columns, self.wanted[at]);
                self.shown[at] = self.wanted[at];
                drawn += 1;
            }
            self.settled += 1;
        }
        true
    }
}

/// Shows from now on what is written, on `screen`. `false`: it cannot be reached.
pub fn start(screen: Screen) -> bool {
    let address = match screen {
        Screen::Text { address, .. } => address,
        Screen::Pixels(pixels) => pixels.address,
    };
    let Some(memory) = Mmio::map_screen(address, screen.len() as u64) else {
        return false;
    };
    let blank = match screen {
        Screen::Text { .. } => {
            VGA_INDEX.write(0x0a); // cursor start: off
            VGA_DATA.write(0x20);
            0
        }
        Screen::Pixels(_) => b' ',
    };
    let canvas = Canvas { screen, memory };
    canvas.clear();
    GRID.lock().reset(screen.cells(), blank);
    CANVAS.set(canvas).is_ok()
}

/// Whether there is a screen that shows something.
pub fn lit() -> bool {
    CANVAS.get().is_some()
}

/// Takes more to be shown, if there is a screen.
pub fn write(bytes: &[u8]) {
    // Whoever panics may be in the middle of this.
    if lit()
        && let Some(mut grid) = GRID.try_lock()
    {
        grid.write(bytes);
    }
}

/// Shows all that has been written.
pub fn show() {
    show_some(usize::MAX);
}

/// Shows a piece of what has been written. `false`: there was nothing left to show.
pub fn show_piece() -> bool {
    show_some(PIECE)
}

fn show_some(most: usize) -> bool {
    let mut drawn = false;
    if let Some(canvas) = CANVAS.get()
        && let Some(mut grid) = GRID.try_lock()
    {
        grid.settle(most, |column, row, byte| {
            drawn = true;
            canvas.draw(column, row, byte);
        });
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(columns: usize, rows: usize) -> Box<Grid> {
        let mut grid = Box::new(Grid::new());
        grid.reset((columns, rows), 0);
        grid
    }

    fn text(grid: &Grid) -> Vec<String> {
        grid.wanted[..grid.columns * grid.rows]
            .chunks(grid.columns)
            .map(|row| String::from_utf8_lossy(row).trim_end().to_owned())
            .collect()
    }

    #[test]
    fn long_lines_go_on_in_the_next_row_and_the_last_rows_stay() {
        let mut grid = grid(4, 3);
        grid.write(b"one\r\ntwo and\r\nx\ty\xc3\xa4z\r\n");
        assert_eq!(text(&grid), ["x?y?", "z", ""]);
    }

    #[test]
    fn a_cell_is_drawn_when_it_changes_and_only_then() {
        let mut grid = grid(10, 2);
        let mut drawn = 0;
        grid.write(b"abc\r\n");
        grid.settle(usize::MAX, |_, _, _| drawn += 1);
        assert_eq!(drawn, 20, "all, as nobody knows what they showed");
        let mut drawn = Vec::new();
        grid.write(b"abd\r\n");
        grid.settle(usize::MAX, |column, row, byte| {
            drawn.push((column, row, byte))
        });
        assert_eq!(drawn, [(2, 0, b'd')], "the rows moved up by one");
    }

    #[test]
    fn pieces_add_up_to_all_that_has_changed() {
        let mut grid = grid(10, 4);
        grid.settle(usize::MAX, |_, _, _| {});
        grid.write(b"one\r\ntwo\r\n");
        let mut drawn = Vec::new();
        let mut pieces = 1;
        while !grid.settle(4, |_, _, byte| drawn.push(byte)) {
            pieces += 1;
        }
        assert_eq!((pieces, drawn.as_slice()), (2, b"onetwo".as_slice()));
        assert!(grid.settle(0, |_, _, _| panic!("nothing is left")));
    }

    #[test]
    fn a_screen_with_more_cells_than_there_is_room_for_is_used_in_part() {
        let mut grid = grid(5000, 5000);
        grid.write(&[b'x'; CELLS + 1]);
        grid.write(b"\r\n");
        grid.settle(usize::MAX, |column, row, _| {
            assert!(column < MAX_COLUMNS && row < MAX_ROWS)
        });
    }

    #[test]
    fn glyphs_are_drawn_in_every_pixel_format_and_scale() {
        for (width, bits, octets) in [(64, 32, 4), (64, 24, 3), (64, 16, 2), (3840, 32, 4)] {
            let pixels = Pixels {
                address: 0x1000,
                pitch: width * octets,
                width,
                height: 160,
                bits,
                white: 0xffff_ffff,
            };
            let screen = Screen::pixels(pixels).unwrap();
            let memory = Mmio::fake(screen.len().div_ceil(8));
            let canvas = Canvas { screen, memory };
            let (columns, rows) = screen.cells();
            assert!((1..=MAX_COLUMNS).contains(&columns));
            let white = |from: usize, to: usize| {
                (from..to).filter(|&at| memory.read8(at) != 0).count() / octets as usize
            };
            let (last, scale) = (columns - 1, pixels.scale());
            canvas.draw(last, rows - 1, b'I');
            let lit: u32 = FONT[usize::from(b'I')]
                .iter()
                .map(|row| row.count_ones())
                .sum();
            assert_eq!(white(0, screen.len()), lit as usize * 2 * scale * scale);
            let above = (rows - 1) * 16 * scale * pixels.pitch as usize;
            assert_eq!(white(0, above), 0, "rows above are untouched");
            canvas.clear();
            assert_eq!(white(0, screen.len()), 0);
        }
    }

    #[test]
    fn every_printable_character_has_a_glyph_of_its_own() {
        let printable = &FONT[0x20..0x7f];
        for (a, glyph) in printable.iter().enumerate() {
            assert!(!printable[..a].contains(glyph), "{a}");
        }
    }
}
