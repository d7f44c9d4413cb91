//! Pictures changed at random, so that a network learns what does not matter.

use netloom_ir::Tensor;
use netloom_ir::sample::SplitMix;

/// What may happen to each picture of a batch before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// The greatest distance in pixels that it is moved along each axis; what moves in is 0.
    pub shift: usize,
    /// Whether every second is mirrored left to right.
    pub flip: bool,
    /// The least share of each side that is kept: a part of the picture at a random place, enlarged to the whole. With 1 nothing is cut off.
    pub crop: f64,
    /// What all that is drawn from, together with the step.
    pub seed: u64,
}

impl Augmentation {
    /// Moved by so many pixels at most, and nothing else.
    pub fn shift(most: usize, seed: u64) -> Augmentation {
        Augmentation {
            shift: most,
            flip: false,
            crop: 1.0,
            seed,
        }
    }

    /// Changes the pictures `[n, channels, height, width]` of training step `step`. Moving and mirroring allocate nothing.
    ///
    /// # Panics
    /// If the tensor has another rank.
    pub fn apply(&self, step: u64, pictures: &mut Tensor) {
        let &[count, channels, height, width] = pictures.shape() else {
            panic!(
                "pictures have the shape [n, channels, height, width], found {}",
                pictures.ty()
            );
        };
        let pixel = pictures.dtype().size_bytes();
        let picture = channels * height * width * pixel;
        let mut draws = SplitMix(SplitMix(self.seed).bits() ^ step);
        for number in 0..count {
            let mut distance = || draws.below(2 * self.shift + 1) as isize - self.shift as isize;
            let (down, right) = (distance(), distance());
            let is_flipped = self.flip && draws.below(2) == 1;
            let part = (self.crop < 1.0).then(|| Part::draw(self.crop.max(0.0), &mut draws));
            let bytes = &mut pictures.bytes_mut()[number * picture..][..picture];
            for plane in bytes.chunks_exact_mut((height * width * pixel).max(1)) {
                if let Some(part) = part {
                    part.enlarge(plane, height, width, pixel);
                }
                if is_flipped {
                    plane.chunks_exact_mut(width * pixel).for_each(|row| mirror(row, pixel));
                }
                shift_plane(plane, height, width, pixel, down, right);
            }
        }
    }
}

/// A part of a picture, as shares of its sides.
#[derive(Clone, Copy)]
struct Part {
    top: f64,
    left: f64,
    side: f64,
}

impl Part {
    fn draw(least: f64, draws: &mut SplitMix) -> Part {
        let side = draws.between((least, 1.0));
        let mut start = || draws.unit() * (1.0 - side);
        let (top, left) = (start(), start());
        Part { top, left, side }
    }

    /// Each pixel becomes the one of the part that lies where it lies in the whole.
    fn enlarge(self, plane: &mut [u8], height: usize, width: usize, pixel: usize) {
        let source = plane.to_vec();
        let place = |start: f64, at: usize, extent: usize| {
            let along = start * extent as f64 + (at as f64 + 0.5) * self.side;
            (along as usize).min(extent - 1)
        };
        for (at, target) in plane.chunks_exact_mut(pixel).enumerate() {
            let (row, column) = (place(self.top, at / width, height), place(self.left, at % width, width));
            target.copy_from_slice(&source[(row * width + column) * pixel..][..pixel]);
        }
    }
}

/// Reverses the order of a row's pixels.
fn mirror(row: &mut [u8], pixel: usize) {
    row.reverse();
    row.chunks_exact_mut(pixel).for_each(<[u8]>::reverse);
}

/// Moves one channel by so many rows and columns.
fn shift_plane(plane: &mut [u8], height: usize, width: usize, pixel: usize, down: isize, right: isize) {
    let (rows, columns) = (down.unsigned_abs().min(height), right.unsigned_abs().min(width));
    let by = ((down * width as isize + right).unsigned_abs() * pixel).min(plane.len());
    if down * width as isize + right >= 0 {
        plane.copy_within(..plane.len() - by, by);
    } else {
        plane.copy_within(by.., 0);
    }
    // The move was along the line of all pixels, so what left a row on one side stands in the next row's margin, which is cleared.
    let from = if down > 0 { 0 } else { height - rows };
    plane[from * width * pixel..][..rows * width * pixel].fill(0);
    let from = if right > 0 { 0 } else { width - columns };
    for row in plane.chunks_exact_mut((width * pixel).max(1)) {
        row[from * pixel..][..columns * pixel].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_planes_are_those_that_indices_say() {
        let (height, width) = (4usize, 5usize);
        let plane: Vec<u8> = (1..=20).collect();
        for down in -5..=5isize {
            for right in -6..=6isize {
                let mut shifted = plane.clone();
                shift_plane(&mut shifted, height, width, 1, down, right);
                for (at, &found) in shifted.iter().enumerate() {
                    let (row, column) = ((at / width) as isize - down, (at % width) as isize - right);
                    let inside = (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
                    let expected = if inside {
                        plane[row as usize * width + column as usize]
                    } else {
                        0
                    };
                    assert_eq!(found, expected, "down {down}, right {right}, at {at}");
                }
            }
        }
    }

    #[test]
    fn shifts_depend_on_the_step_alone() {
        let shift = Augmentation::shift(1, 3);
        let start = Tensor::from_f32(
            [8, 1, 3, 3],
            &[[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]; 8].concat(),
        );
        let at = |step: u64| {
            let mut pictures = start.clone();
            shift.apply(step, &mut pictures);
            pictures.to_f32()
        };
        assert_eq!(at(5), at(5));
        assert_ne!(at(5), at(6));
        assert!(at(5).chunks_exact(9).all(|picture| picture.iter().sum::<f32>() == 1.0));
    }

    /// Of a picture whose pixels count up, mirrored rows count down; a part holds neighbours in order, each once or twice.
    #[test]
    fn pictures_are_mirrored_and_enlarged() {
        let start: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let (mut flipped, mut enlarged) = (0, 0);
        for step in 0..40 {
            let mut picture = Tensor::from_f32([1, 1, 4, 4], &start);
            let flip = Augmentation {
                flip: true,
                ..Augmentation::shift(0, 1)
            };
            flip.apply(step, &mut picture);
            let found = picture.to_f32();
            let mirrored: Vec<f32> = start.chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
            assert!(found == start || found == mirrored, "{found:?}");
            flipped += usize::from(found == mirrored);

            let mut picture = Tensor::from_f32([1, 1, 4, 4], &start);
            let crop = Augmentation {
                crop: 0.5,
                ..Augmentation::shift(0, 1)
            };
            crop.apply(step, &mut picture);
            let found = picture.to_f32();
            assert!(
                found.chunks(4).all(|row| row.is_sorted() && row[3] - row[0] <= 3.0),
                "{found:?}"
            );
            enlarged += usize::from(found != start);
        }
        assert!((10..30).contains(&flipped) && enlarged > 15, "{flipped} {enlarged}");
    }
}
