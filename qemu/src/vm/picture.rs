//! A picture of a machine's screen, as QEMU takes it (PPM, binary, 8 bits a colour).

/// Rows of pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a PPM file.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut word = || {
            let from = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
            let len = rest[from..].iter().position(u8::is_ascii_whitespace)?;
            let word = std::str::from_utf8(&rest[from..from + len]).ok()?;
            rest = &rest[from + len + 1..];
            Some(word)
        };
        if word()? != "P6" {
            return None;
        }
        let (width, height) = (word()?.parse().ok()?, word()?.parse().ok()?);
        if word()? != "255" || rest.len() != usize::checked_mul(width, height)?.checked_mul(3)? {
            return None;
        }
        let pixels = rest.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
        Some(Self {
            width,
            height,
            pixels,
        })
    }

    /// Whether a pixel is closer to white than to black; outside nothing is.
    pub fn lit(&self, x: usize, y: usize) -> bool {
        let inside = x < self.width;
        let pixel = inside
            .then(|| self.pixels.get(y * self.width + x))
            .flatten();
        pixel.is_some_and(|pixel| pixel.iter().map(|&c| u32::from(c)).sum::<u32>() > 3 * 96)
    }

    /// How many pixels are lit.
    pub fn count(&self) -> usize {
        (0..self.height)
            .map(|y| (0..self.width).filter(|&x| self.lit(x, y)).count())
            .sum()
    }

    /// For each of the rows of characters of that height, how many pixels are lit.
    pub fn rows(&self, height: usize) -> Vec<usize> {
        (0..self.height / height)
            .map(|row| {
                let lines = row * height..(row + 1) * height;
                lines
                    .map(|y| (0..self.width).filter(|&x| self.lit(x, y)).count())
                    .sum()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_where_the_file_has_them() {
        let mut file = b"P6\n3 2\n255\n".to_vec();
        file.extend([0; 15]);
        file.extend([255, 255, 255]);
        let picture = Picture::parse(&file).unwrap();
        assert!(picture.lit(2, 1) && !picture.lit(2, 0) && !picture.lit(3, 1));
        assert_eq!((picture.count(), picture.rows(1)), (1, vec![0, 1]));
        assert_eq!(Picture::parse(&file[..file.len() - 1]), None);
        assert_eq!(Picture::parse(b"P6 1 1 65535 "), None);
    }
}
