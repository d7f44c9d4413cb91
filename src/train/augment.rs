//! Pictures changed at random, so that a network learns what does not matter.

use netloom_ir::sample::SplitMix;
use netloom_ir::{DType, Tensor, Type};

use crate::error::Error;

/// What may happen to each picture of a batch before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// The greatest distance in pixels that it is moved along each axis; what moves in is 0.
    pub shift: usize,
    /// Whether every second is mirrored left to right.
    pub flip: bool,
    /// The least share of each side that is kept: a part of the picture at a random place, enlarged to the whole. With 1 nothing is cut off.
    pub crop: f64,
    /// The greatest angle, in degrees, by which it is turned about its middle; what turns in is 0.
    pub turn: f64,
    /// The greatest share by which it grows or shrinks about its middle.
    pub zoom: f64,
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
            turn: 0.0,
            zoom: 0.0,
            seed,
        }
    }

    /// Whether pixels come to lie between pixels, so that values are interpolated.
    pub fn warps(&self) -> bool {
        self.crop < 1.0 || self.turn > 0.0 || self.zoom > 0.0
    }

    /// Whether batches of this type can be changed so.
    ///
    /// # Errors
    /// If they are no pictures `[n, channels, height, width]`, of `f32` where values are interpolated, or a number of the options makes no sense.
    pub fn check(&self, batch: &Type) -> Result<(), Error> {
        let problem = if batch.rank() != 4 {
            format!("only pictures [batch, channels, height, width] can be augmented, not {batch}")
        } else if !(self.crop > 0.0 && self.crop <= 1.0) {
            let crop = self.crop;
            format!("a part of a picture is a share between 0 and 1 of its sides, found {crop}")
        } else if !(0.0..=180.0).contains(&self.turn) {
            format!("pictures are turned by up to 180 degrees, found {}", self.turn)
        } else if !(0.0..1.0).contains(&self.zoom) {
            format!("pictures grow and shrink by a share below 1, found {}", self.zoom)
        } else if self.warps() && batch.dtype != DType::F32 {
            format!("pictures are cut, turned and zoomed as f32, not as {}", batch.dtype)
        } else {
            return Ok(());
        };
        Err(Error::Usage(problem))
    }

    /// Changes the pictures `[n, channels, height, width]` of training step `step`. Moving and mirroring allocate nothing.
    ///
    /// # Panics
    /// If [`Augmentation::check`] refuses their type.
    pub fn apply(&self, step: u64, pictures: &mut Tensor) {
        self.check(&pictures.ty())
            .expect("the pictures can be changed so: `check` says whether");
        let &[count, channels, height, width] = pictures.shape() else {
            unreachable!("pictures have four axes")
        };
        let pixel = pictures.dtype().size_bytes();
        let picture = channels * height * width * pixel;
        let mut draws = self.draws(step);
        let mut before = Vec::new();
        for number in 0..count {
            let Move {
                down,
                right,
                is_flipped,
            } = Move::draw(self, &mut draws);
            let warp = self.warps().then(|| Warp::draw(self, height, width, &mut draws));
            let bytes = &mut pictures.bytes_mut()[number * picture..][..picture];
            for plane in bytes.chunks_exact_mut((height * width * pixel).max(1)) {
                if let Some(warp) = &warp {
                    warp.apply(plane, height, width, &mut before);
                }
                if is_flipped {
                    plane.chunks_exact_mut(width * pixel).for_each(|row| mirror(row, pixel));
                }
                shift_plane(plane, height, width, pixel, down, right);
            }
        }
    }

    /// The same for pictures that are moved elsewhere, as [`crate::nn::resident::MOVES`] says; nothing but moves is done to them.
    pub fn moves(&self, step: u64, count: usize) -> Tensor {
        let mut draws = self.draws(step);
        let moves = (0..count).flat_map(|_| {
            let Move {
                down,
                right,
                is_flipped,
            } = Move::draw(self, &mut draws);
            [down as i64, right as i64, i64::from(is_flipped)]
        });
        Tensor::from_i64([count, 3], &moves.collect::<Vec<_>>())
    }

    fn draws(&self, step: u64) -> SplitMix {
        SplitMix(SplitMix(self.seed).bits() ^ step)
    }
}

/// How far a picture is moved; mirrored before that, or not.
struct Move {
    down: isize,
    right: isize,
    is_flipped: bool,
}

impl Move {
    fn draw(augment: &Augmentation, draws: &mut SplitMix) -> Move {
        let mut distance = || draws.below(2 * augment.shift + 1) as isize - augment.shift as isize;
        let (down, right) = (distance(), distance());
        Move {
            down,
            right,
            is_flipped: augment.flip && draws.below(2) == 1,
        }
    }
}

/// Where each pixel comes from: row and column in the picture before are `at + down * row + right * column`.
struct Warp {
    at: [f64; 2],
    down: [f64; 2],
    right: [f64; 2],
}

impl Warp {
    fn draw(augment: &Augmentation, height: usize, width: usize, draws: &mut SplitMix) -> Warp {
        let extents = [height as f64, width as f64];
        let side = draws.between((augment.crop, 1.0));
        let starts = extents.map(|extent| draws.unit() * (1.0 - side) * extent);
        let angle = draws.between((-augment.turn, augment.turn)).to_radians();
        let scale = side / (1.0 + draws.between((-augment.zoom, augment.zoom)));
        let (sin, cos) = (scale * angle.sin(), scale * angle.cos());
        let (down, right) = ([cos, -sin], [sin, cos]);
        // The middle of the picture comes from the middle of the part; the middle of pixel 0 lies at 1/2.
        let from = |axis: usize| {
            let middle = starts[axis] + 0.5 * side * extents[axis];
            middle - down[axis] * (extents[0] - 1.0) / 2.0 - right[axis] * (extents[1] - 1.0) / 2.0 - 0.5
        };
        Warp {
            at: [from(0), from(1)],
            down,
            right,
        }
    }

    /// Each pixel becomes what lies at its place among the four nearest before; 0 beyond the edge.
    fn apply(&self, plane: &mut [u8], height: usize, width: usize, before: &mut Vec<f32>) {
        const SIZE: usize = size_of::<f32>();
        let value = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        before.clear();
        before.extend(plane.chunks_exact(SIZE).map(value));
        // The two lines around a place and the weight of the second.
        let between = |place: f64, extent: usize| {
            let last = (extent - 1) as f64;
            (-0.5..=last + 0.5).contains(&place).then(|| {
                let place = place.clamp(0.0, last);
                let first = place as usize;
                (first, (first + 1).min(extent - 1), (place - first as f64) as f32)
            })
        };
        for (number, target) in plane.chunks_exact_mut(SIZE).enumerate() {
            let (row, column) = ((number / width) as f64, (number % width) as f64);
            let place = |axis: usize| self.at[axis] + self.down[axis] * row + self.right[axis] * column;
            let value = match (between(place(0), height), between(place(1), width)) {
                (Some((above, below, down)), Some((left, right, along))) => {
                    let line = |row: usize| {
                        let (first, second) = (before[row * width + left], before[row * width + right]);
                        first + along * (second - first)
                    };
                    let (upper, lower) = (line(above), line(below));
                    upper + down * (lower - upper)
                }
                _ => 0.0,
            };
            target.copy_from_slice(&value.to_ne_bytes());
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

    /// A quarter turn moves rows to columns exactly; a blot in the middle stays there, and zooming changes how much of it there is, not where.
    #[test]
    fn pictures_are_turned_and_zoomed_about_their_middle() {
        let start: Vec<f32> = (0..25).map(|x| x as f32).collect();
        let quarter = Warp {
            at: [0.0, 4.0],
            down: [0.0, -1.0],
            right: [1.0, 0.0],
        };
        let mut turned = Tensor::from_f32([5, 5], &start);
        quarter.apply(turned.bytes_mut(), 5, 5, &mut Vec::new());
        let expected: Vec<f32> = (0..25).map(|at| start[at % 5 * 5 + 4 - at / 5]).collect();
        assert_eq!(turned.to_f32(), expected);

        let augment = Augmentation {
            turn: 30.0,
            zoom: 0.2,
            ..Augmentation::shift(0, 1)
        };
        let blot =
            |at: usize| (-((at / 21) as f64 - 10.0).powi(2) / 8.0 - ((at % 21) as f64 - 10.0).powi(2) / 8.0).exp();
        let blot: Vec<f32> = (0..441).map(|at| blot(at) as f32).collect();
        let (mut least, mut greatest) = (f32::MAX, f32::MIN);
        for step in 0..40 {
            let mut picture = Tensor::from_f32([1, 1, 21, 21], &blot);
            augment.apply(step, &mut picture);
            let found = picture.to_f32();
            let mass: f32 = found.iter().sum();
            let centre = |of: &dyn Fn(usize) -> usize| {
                found.iter().enumerate().map(|(at, x)| of(at) as f32 * x).sum::<f32>() / mass
            };
            let (row, column) = (centre(&|at| at / 21), centre(&|at| at % 21));
            assert!(
                (row - 10.0).abs() < 0.01 && (column - 10.0).abs() < 0.01,
                "step {step}: {row} {column}"
            );
            (least, greatest) = (least.min(mass), greatest.max(mass));
        }
        // Between 0.8² and 1.2² of the 8π that the blot has.
        assert!(
            (15.8..20.0).contains(&least) && (30.0..36.5).contains(&greatest),
            "{least} {greatest}"
        );
    }

    #[test]
    fn what_cannot_be_changed_so_is_named() {
        let pictures = Type::new(DType::F32, [2, 1, 4, 4]);
        let plain = Augmentation::shift(1, 0);
        for (augment, batch, said) in [
            (plain, Type::new(DType::F32, [2, 16]), "not f32[2,16]"),
            (Augmentation { crop: 0.0, ..plain }, pictures.clone(), "found 0"),
            (
                Augmentation { turn: -3.0, ..plain },
                pictures.clone(),
                "180 degrees, found -3",
            ),
            (
                Augmentation {
                    zoom: f64::NAN,
                    ..plain
                },
                pictures.clone(),
                "below 1, found NaN",
            ),
            (
                Augmentation { turn: 3.0, ..plain },
                Type::new(DType::U8, [2, 1, 4, 4]),
                "not as u8",
            ),
        ] {
            let message = augment.check(&batch).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        assert!(plain.check(&pictures).is_ok());
    }
}
