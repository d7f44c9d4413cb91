//! Where the elements of a tensor lie in memory.
//!
//! A [`Layout`] is a list of *digits*, outermost first. Each digit takes part of one logical axis:
//! digit `{axis, step, extent}` of logical index `i` is `(i[axis] / step) % extent`, and the address (in elements) is the
//! mixed-radix number that the digits spell. A dense row-major tensor has one digit an axis with step 1.
//! Blocked channels, nChw16c, are `0/1:N 1/16:C÷16 2/1:H 3/1:W 1/1:16`. An extent may exceed what the axis needs:
//! then the rest is padding, and stores keep it zero.

use std::fmt;

use crate::tensor::unravel;

/// One digit of an address: `(index[axis] / step) % extent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digit {
    /// The logical axis this digit is taken from.
    pub axis: usize,
    /// How many logical elements one unit of the digit stands for.
    pub step: usize,
    /// The number of values the digit takes.
    pub extent: usize,
}

/// The physical arrangement of a tensor; see the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Row-major without padding.
    #[default]
    Dense,
    /// The digits of the address, outermost first.
    Digits(Vec<Digit>),
}

impl Layout {
    /// The digits for a tensor of `shape`, spelled out for the dense layout too.
    pub fn digits(&self, shape: &[usize]) -> Vec<Digit> {
        match self {
            Layout::Dense => shape
                .iter()
                .enumerate()
                .map(|(axis, &extent)| Digit { axis, step: 1, extent })
                .collect(),
            Layout::Digits(digits) => digits.clone(),
        }
    }

    /// Whether every element of a tensor of `shape` has a place of its own: along each axis, the digits in order of their steps begin at 1,
    /// each next one counts where the one before ends, and the last reaches the extent.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn check(&self, shape: &[usize]) -> Result<(), String> {
        let Layout::Digits(digits) = self else { return Ok(()) };
        let mut reached = vec![1; shape.len()];
        let mut by_step: Vec<&Digit> = digits.iter().collect();
        by_step.sort_by_key(|digit| (digit.step, digit.extent));
        for digit in by_step {
            let Some(reached) = reached.get_mut(digit.axis) else {
                return Err(format!(
                    "the layout {self} names axis {} of {}",
                    digit.axis,
                    shape.len()
                ));
            };
            if digit.step != *reached {
                return Err(format!(
                    "the layout {self} steps by {} along axis {} where {reached} is next",
                    digit.step, digit.axis
                ));
            }
            *reached = match digit.step.checked_mul(digit.extent) {
                Some(next) if next > 0 => next,
                _ => return Err(format!("the layout {self} has a digit of extent {}", digit.extent)),
            };
        }
        match (0..shape.len()).find(|&axis| reached[axis] < shape[axis]) {
            Some(axis) => Err(format!(
                "the layout {self} covers {} of {} along axis {axis}",
                reached[axis], shape[axis]
            )),
            None => Ok(()),
        }
    }

    /// Elements in memory, padding included.
    pub fn len(&self, shape: &[usize]) -> usize {
        match self {
            Layout::Dense => shape.iter().product(),
            Layout::Digits(digits) => digits.iter().map(|digit| digit.extent).product(),
        }
    }

    /// Visits the places of memory in order, with the row-major position of the element at each; `None` where there is padding.
    pub fn visit(&self, shape: &[usize], visit: &mut impl FnMut(Option<usize>)) {
        if let Some(walked) = self.walked(shape) {
            return walk(&walked, 0, &mut |position| visit(Some(position)));
        }
        let digits = self.digits(shape);
        // Places are numbered by the digits themselves, which say what index they stand for.
        let extents: Vec<usize> = digits.iter().map(|digit| digit.extent).collect();
        for place in 0..self.len(shape) {
            let mut index = vec![0; shape.len()];
            for (digit, value) in digits.iter().zip(unravel(&extents, place)) {
                index[digit.axis] += value * digit.step;
            }
            let is_inside = index.iter().zip(shape).all(|(at, extent)| at < extent);
            visit(is_inside.then(|| Layout::Dense.offset(shape, &index)));
        }
    }

    /// The digits as they are walked, neighbours that go on evenly as one; `None` if there is padding.
    fn walked(&self, shape: &[usize]) -> Option<Vec<Walked>> {
        if self.len(shape) != shape.iter().product::<usize>() {
            return None;
        }
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let mut walked: Vec<Walked> = Vec::new();
        for Digit { axis, step, extent } in self.digits(shape) {
            let stride = stride(axis) * step;
            match walked.last_mut() {
                _ if extent == 1 => {}
                Some(last) if last.stride == extent * stride => {
                    *last = Walked {
                        extent: last.extent * extent,
                        stride,
                    };
                }
                _ => walked.push(Walked { extent, stride }),
            }
        }
        Some(walked)
    }

    /// Writes elements of so many bytes, given row after row, where they lie.
    pub(crate) fn arrange<const BYTES: usize>(&self, shape: &[usize], from: &[u8], to: &mut [u8]) {
        let (from, to) = (from.as_chunks::<BYTES>().0, to.as_chunks_mut::<BYTES>().0);
        if let Some(walked) = self.walked(shape) {
            return gather(&walked, from, to);
        }
        let mut places = to.iter_mut();
        self.visit(shape, &mut |position| {
            let place = places.next().expect("as many places as the layout has");
            if let Some(position) = position {
                *place = from[position];
            }
        });
    }

    /// The address of one element, in elements.
    pub fn offset(&self, shape: &[usize], index: &[usize]) -> usize {
        self.digits(shape).iter().fold(0, |offset, digit| {
            offset * digit.extent + index[digit.axis] / digit.step % digit.extent
        })
    }
}

/// A digit as it is walked through memory: how many values it takes, and how far apart these lie in row-major order.
struct Walked {
    extent: usize,
    stride: usize,
}

fn walk(digits: &[Walked], position: usize, visit: &mut impl FnMut(usize)) {
    match digits {
        [] => visit(position),
        [last] => (0..last.extent).for_each(|value| visit(position + value * last.stride)),
        [first, rest @ ..] => {
            for value in 0..first.extent {
                walk(rest, position + value * first.stride, visit);
            }
        }
    }
}

/// Writes elements to the places of memory in order.
fn gather<T: Copy>(digits: &[Walked], from: &[T], to: &mut [T]) {
    match digits {
        _ if to.is_empty() => {}
        [] => to[0] = from[0],
        [last] => (to.iter_mut().enumerate()).for_each(|(value, place)| *place = from[value * last.stride]),
        [first, rest @ ..] => {
            let parts = to.chunks_exact_mut(to.len() / first.extent).enumerate();
            parts.for_each(|(value, part)| gather(rest, &from[value * first.stride..], part));
        }
    }
}

impl fmt::Display for Layout {
    /// Nothing for the dense layout; otherwise ` {axis/step:extent …}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Layout::Digits(digits) = self else { return Ok(()) };
        f.write_str("{")?;
        for (place, digit) in digits.iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            write!(f, "{gap}{}/{}:{}", digit.axis, digit.step, digit.extent)?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_is_row_major() {
        assert_eq!(Layout::Dense.offset(&[2, 3, 4], &[1, 2, 3]), 23);
        assert_eq!(Layout::Dense.len(&[2, 3, 4]), 24);
    }

    #[test]
    fn a_layout_that_loses_elements_is_refused() {
        let digit = |axis, step, extent| Digit { axis, step, extent };
        let check = |digits: &[Digit], shape: &[usize]| Layout::Digits(digits.to_vec()).check(shape);
        assert_eq!(
            check(&[digit(1, 16, 2), digit(0, 1, 5), digit(1, 1, 16)], &[5, 20]),
            Ok(())
        );
        let expected = "the layout {0/1:4} covers 4 of 5 along axis 0";
        assert_eq!(check(&[digit(0, 1, 4)], &[5]), Err(expected.to_owned()));
        let expected = "the layout {0/8:4 0/1:4} steps by 8 along axis 0 where 4 is next";
        assert_eq!(check(&[digit(0, 8, 4), digit(0, 1, 4)], &[5]), Err(expected.to_owned()));
        assert!(check(&[digit(1, 1, 5)], &[5]).is_err());
        assert!(check(&[digit(0, 1, 0)], &[5]).is_err());
        assert!(check(&[digit(0, 1, usize::MAX), digit(0, usize::MAX, 2)], &[5]).is_err());
    }

    #[test]
    fn blocked_channels_pad_to_the_block() {
        let digit = |axis, step, extent| Digit { axis, step, extent };
        let layout = Layout::Digits(vec![digit(1, 16, 2), digit(2, 1, 5), digit(1, 1, 16)]);
        let shape = [1, 20, 5];
        assert_eq!(layout.len(&shape), 160);
        assert_eq!(layout.offset(&shape, &[0, 17, 3]), 80 + 3 * 16 + 1);
        assert_eq!(layout.to_string(), "{1/16:2 2/1:5 1/1:16}");
    }
}
