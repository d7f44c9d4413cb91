//! The product of two tensors summed over axes: every dense contraction.

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::build::{KernelCx, X};
use crate::kernel::{Combine, ExprId};
use crate::ops::{Attr, Attrs, Fold, Op, Rules, View};
use crate::tensor::{Tensor, Type, unravel};

/// `out[..] = Σ left[..] · right[..]`, in Einstein's notation: each axis has a letter; letters of the operands that the result
/// lacks are summed over. Letters within one list are distinct. An operand's axis may be in neither the other nor the result:
/// then that operand is summed over it.
///
/// In the text form the three lists are one string: `"mk,kn->mn"`. The builder takes any number of operands and splits them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Einsum {
    /// The left operand's axes.
    pub left: Vec<char>,
    /// The right operand's axes.
    pub right: Vec<char>,
    /// The result's axes.
    pub out: Vec<char>,
}

/// Reads `einsum`.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    (name == "einsum").then(|| {
        let spec = Spec::parse(&attrs.text("")?)?;
        match <[Vec<char>; 2]>::try_from(spec.operands) {
            Ok([left, right]) => Ok(Op::Einsum(Einsum {
                left,
                right,
                out: spec.out,
            })),
            Err(operands) => Err(format!("takes two operands, found axes of {}", operands.len())),
        }
    })
}

impl Einsum {
    /// The letters summed over, in the order that the operands first name them.
    pub fn summed(&self) -> Vec<char> {
        let mut summed: Vec<char> = Vec::new();
        for &letter in self.left.iter().chain(&self.right) {
            if !self.out.contains(&letter) && !summed.contains(&letter) {
                summed.push(letter);
            }
        }
        summed
    }

    /// A letter that no operand has.
    pub(crate) fn free_letter(&self) -> char {
        let is_free = |letter: &char| !self.left.contains(letter) && !self.right.contains(letter);
        let free = ('a'..='z').chain('A'..='Z').find(is_free);
        free.expect("a tensor has fewer axes than there are letters")
    }
}

impl Rules for Einsum {
    fn name(&self) -> &'static str {
        "einsum"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let operands = vec![self.left.clone(), self.right.clone()];
        let spec = Spec {
            operands,
            out: self.out.clone(),
        };
        vec![("", Attr::Text(spec.to_string()))]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [left, right] = args else {
            return Err(format!("takes two operands, found {}", args.len()));
        };
        check_factors(left, right)?;
        for (side, letters, ty) in [("left", &self.left, left), ("right", &self.right, right)] {
            check_distinct(side, letters)?;
            if letters.len() != ty.rank() {
                let (named, found) = (letters.len(), ty.rank());
                return Err(format!(
                    "{named} axes are named on the {side}, whose operand has {found}"
                ));
            }
        }
        check_distinct("result", &self.out)?;
        let on_left = |letter: &char| extent_of(*letter, &self.left, &left.shape);
        let on_right = |letter: &char| extent_of(*letter, &self.right, &right.shape);
        for letter in &self.left {
            if let (Some(one), Some(other)) = (on_left(letter), on_right(letter))
                && one != other
            {
                return Err(format!("axis `{letter}` is {one} on the left and {other} on the right"));
            }
        }
        let shape: Result<Vec<usize>, String> = self
            .out
            .iter()
            .map(|letter| {
                on_left(letter)
                    .or(on_right(letter))
                    .ok_or(format!("axis `{letter}` of the result is in no operand"))
            })
            .collect();
        Ok(vec![Type::new(left.dtype, shape?)])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let [left, right] = [args[0], args[1]];
        let dtype = left.dtype();
        let extents = |letters: &[char]| -> Vec<usize> {
            let extent = |letter: &char| {
                extent_of(*letter, &self.left, left.shape()).or(extent_of(*letter, &self.right, right.shape()))
            };
            letters
                .iter()
                .map(|letter| extent(letter).expect("every letter is some operand's"))
                .collect()
        };
        let summed = self.summed();
        let (out_shape, sum_shape) = (extents(&self.out), extents(&summed));
        let letters: Vec<char> = self.out.iter().chain(&summed).copied().collect();
        let left_strides = strides_for(&letters, &self.left, left.shape());
        let right_strides = strides_for(&letters, &self.right, right.shape());
        let (left, right): (Vec<Scalar>, Vec<Scalar>) = (left.scalars().collect(), right.scalars().collect());
        let elements = (0..out_shape.iter().product()).map(|position| {
            let outer = unravel(&out_shape, position);
            let terms = 0..sum_shape.iter().product();
            terms.fold(Scalar::zero(dtype), |sum, term| {
                let index = outer.iter().copied().chain(unravel(&sum_shape, term));
                let (mut from_left, mut from_right) = (0, 0);
                for ((at, left_stride), right_stride) in index.zip(&left_strides).zip(&right_strides) {
                    from_left += at * left_stride;
                    from_right += at * right_stride;
                }
                add_product(sum, left[from_left], right[from_right])
            })
        });
        let elements: Vec<Scalar> = elements.collect();
        vec![Tensor::from_scalars(dtype, out_shape, elements)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let [left, right] = [vjp.args[0], vjp.args[1]];
        vec![
            vjp.wanted[0].then(|| pull_back(vjp.seed, &self.out, right, &self.right, left, &self.left)),
            vjp.wanted[1].then(|| pull_back(vjp.seed, &self.out, left, &self.left, right, &self.right)),
        ]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let summed = self.summed();
        let axes: Vec<_> = summed
            .iter()
            .map(|&letter| {
                let extent = extent_of(letter, &self.left, &cx.arg_type(0).shape).or(extent_of(
                    letter,
                    &self.right,
                    &cx.arg_type(1).shape,
                ));
                cx.fold_axis(extent.expect("a summed letter is some operand's"))
            })
            .collect();
        let place = |cx: &KernelCx<'_>, letter: &char| match self.out.iter().position(|other| other == letter) {
            Some(axis) => cx.index()[axis],
            None => {
                let at = summed
                    .iter()
                    .position(|other| other == letter)
                    .expect("not of the result, so summed");
                cx.axis(axes[at]).id()
            }
        };
        let left_index = self.left.iter().map(|letter| place(cx, letter)).collect();
        let right_index = self.right.iter().map(|letter| place(cx, letter)).collect();
        let (left, right) = (cx.arg(0, left_index), cx.arg(1, right_index));
        Some(sum_of_products(cx, left, right, axes))
    }
}

/// One operand's gradient: the seed times the other operand, summed over what this one lacks, and repeated along the axes that
/// only this one has.
fn pull_back<'g>(
    seed: Val<'g>,
    out: &[char],
    other: Val<'g>,
    other_letters: &[char],
    this: Val<'g>,
    letters: &[char],
) -> Val<'g> {
    let shared = |letter: &char| out.contains(letter) || other_letters.contains(letter);
    let einsum = Einsum {
        left: out.to_vec(),
        right: other_letters.to_vec(),
        out: letters.iter().copied().filter(shared).collect(),
    };
    let gradient = seed.builder().push(Op::Einsum(einsum), &[seed, other]);
    let shape = this.shape();
    let kept: Vec<usize> = letters
        .iter()
        .zip(&shape)
        .map(|(letter, &extent)| if shared(letter) { extent } else { 1 })
        .collect();
    gradient.reshape(kept).broadcast(shape)
}

/// Both operands of a contraction are numbers of one type.
pub(super) fn check_factors(left: &Type, right: &Type) -> Result<(), String> {
    if left.dtype != right.dtype {
        return Err(format!(
            "operands have types {} and {}; convert one",
            left.dtype, right.dtype
        ));
    }
    if left.dtype == DType::Bool {
        return Err("takes numbers, found bool".to_owned());
    }
    Ok(())
}

/// `sum + a * b` before rounding; integers wrap.
pub(super) fn add_product(sum: Scalar, a: Scalar, b: Scalar) -> Scalar {
    match (sum, a, b) {
        (Scalar::Float(sum), Scalar::Float(a), Scalar::Float(b)) => Scalar::Float(sum + a * b),
        _ => Scalar::Int(sum.as_i128().wrapping_add(a.as_i128().wrapping_mul(b.as_i128()))),
    }
}

/// `Σ left · right` over fold axes; halves are multiplied and summed as `f32`. The factors stay the direct operands of one
/// product under one fold: that is how schedules know a contraction.
pub(super) fn sum_of_products(
    cx: &mut KernelCx<'_>,
    left: ExprId,
    right: ExprId,
    over: Vec<crate::kernel::AxisId>,
) -> ExprId {
    let product = widened(cx.x(left)) * widened(cx.x(right));
    let sum = cx.fold(Combine::Sum, over, product.id());
    let dtype = cx.out_type().dtype;
    cx.x(sum).cast(dtype).id()
}

/// The value as the type it is computed in.
pub(super) fn widened(x: X<'_>) -> X<'_> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

fn check_distinct(list: &str, letters: &[char]) -> Result<(), String> {
    match letters
        .iter()
        .enumerate()
        .find(|(place, letter)| letters[..*place].contains(letter))
    {
        Some((_, letter)) => Err(format!("axis `{letter}` is named twice on the {list}")),
        None => Ok(()),
    }
}

fn extent_of(letter: char, letters: &[char], shape: &[usize]) -> Option<usize> {
    let axis = letters.iter().position(|&other| other == letter)?;
    Some(shape[axis])
}

/// For each of `letters`, how far apart its neighbours lie in an operand with axes `named`; 0 where it has no such axis.
fn strides_for(letters: &[char], named: &[char], shape: &[usize]) -> Vec<usize> {
    let stride = |letter: &char| {
        let axis = named.iter().position(|other| other == letter);
        axis.map_or(0, |axis| shape[axis + 1..].iter().product())
    };
    letters.iter().map(stride).collect()
}

/// Einstein's notation as written: `"ij,jk->ik"`.
struct Spec {
    operands: Vec<Vec<char>>,
    out: Vec<char>,
}

impl Spec {
    /// Without `->`, the result has the letters that occur once, in alphabetical order, as in NumPy.
    fn parse(text: &str) -> Result<Spec, String> {
        let (operands, out) = match text.split_once("->") {
            Some((operands, out)) => (operands, Some(out)),
            None => (text, None),
        };
        let letters = |list: &str| -> Result<Vec<char>, String> {
            let letters = list.chars().filter(|letter| !letter.is_whitespace());
            letters
                .map(|letter| {
                    if letter.is_alphabetic() {
                        Ok(letter)
                    } else {
                        Err(format!("`{letter}` is not a letter"))
                    }
                })
                .collect()
        };
        let operands: Vec<Vec<char>> = operands.split(',').map(letters).collect::<Result<_, _>>()?;
        let out = match out {
            Some(out) => letters(out)?,
            None => {
                let mut all = operands.concat();
                all.sort_unstable();
                let once = |letter: &&char| all.iter().filter(|other| other == letter).count() == 1;
                all.iter().filter(once).copied().collect()
            }
        };
        Ok(Spec { operands, out })
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operands: Vec<String> = self.operands.iter().map(|letters| letters.iter().collect()).collect();
        write!(f, "{}->{}", operands.join(","), self.out.iter().collect::<String>())
    }
}

impl<'g> Val<'g> {
    /// A sum of products in Einstein's notation, e.g. `Val::einsum("bik,bkj->bij", &[x, y])`, of one or more operands.
    ///
    /// A letter twice in one operand takes its diagonal. Without `->` the result has the letters that occur once, in
    /// alphabetical order. Of more than two operands the cheapest pair is contracted first.
    #[track_caller]
    pub fn einsum(spec: &str, operands: &[Val<'g>]) -> Val<'g> {
        let to = operands[0].builder();
        if let Some(&poison) = operands.iter().find(|val| val.is_poison()) {
            return poison;
        }
        let checked = Spec::parse(spec).and_then(|spec| check_operands(spec, operands));
        let spec = match checked {
            Ok(spec) => spec,
            Err(message) => return to.problem(format!("einsum: {message}, in \"{spec}\"")),
        };
        let diagonals = operands
            .iter()
            .zip(&spec.operands)
            .map(|(&val, letters)| diagonal(val, letters));
        let mut terms: Vec<(Val<'g>, Vec<char>)> = diagonals.collect();
        while terms.len() > 1 {
            let (first, second) = cheapest_pair(&terms);
            let (right, right_letters) = terms.remove(second);
            let (left, left_letters) = terms.remove(first);
            let read_later =
                |letter: &char| spec.out.contains(letter) || terms.iter().any(|(_, letters)| letters.contains(letter));
            let out: Vec<char> = if terms.is_empty() {
                spec.out.clone()
            } else {
                let fresh = right_letters.iter().filter(|letter| !left_letters.contains(letter));
                left_letters.iter().chain(fresh).copied().filter(read_later).collect()
            };
            let einsum = Einsum {
                left: left_letters,
                right: right_letters,
                out: out.clone(),
            };
            terms.push((to.push(Op::Einsum(einsum), &[left, right]), out));
        }
        let (val, letters) = terms.pop().expect("one operand at least");
        arrange(val, &letters, &spec.out)
    }

    /// The matrix product, by NumPy's rule: the last two axes are matrices, those before are broadcast; a vector is a
    /// row on the left and a column on the right, and its axis vanishes.
    #[track_caller]
    pub fn matmul(self, other: Val<'g>) -> Val<'g> {
        let to = self.builder();
        if self.is_poison() || other.is_poison() {
            return if self.is_poison() { self } else { other };
        }
        let (left, right) = (self.shape(), other.shape());
        if left.is_empty() || right.is_empty() {
            return to.problem(format!(
                "matmul: takes vectors or matrices, found {self} and {other}; multiply scalars with `*`"
            ));
        }
        let (m, k, n) = ('m', 'k', 'n');
        let left_matrix: &[char] = if left.len() == 1 { &[k] } else { &[m, k] };
        let right_matrix: &[char] = if right.len() == 1 { &[k] } else { &[k, n] };
        let left_batch = &left[..left.len() - left_matrix.len()];
        let right_batch = &right[..right.len() - right_matrix.len()];
        let rank = left_batch.len().max(right_batch.len());
        // Batch axes are numbered from the last, so that the shorter list aligns by itself.
        let letter = |from_last: usize| char::from_u32('A' as u32 + from_last as u32).expect("a letter");
        let extent = |batch: &[usize], from_last: usize| batch.iter().rev().nth(from_last).copied();
        // An axis of 1 that the other side repeats is dropped, which repeats it without a copy.
        let names = |batch: &[usize], others: &[usize]| -> Vec<(char, usize)> {
            let axes = (0..batch.len()).rev();
            let kept = axes.filter(|&axis| extent(batch, axis) != Some(1) || extent(others, axis).unwrap_or(1) == 1);
            kept.map(|axis| (letter(axis), batch[batch.len() - 1 - axis])).collect()
        };
        let named_left = names(left_batch, right_batch);
        let named_right = names(right_batch, left_batch);
        let operand = |val: Val<'g>, named: &[(char, usize)], matrix: &[char], shape: &[usize]| {
            let extents: Vec<usize> = named
                .iter()
                .map(|&(_, extent)| extent)
                .chain(shape[shape.len() - matrix.len()..].iter().copied())
                .collect();
            let letters: Vec<char> = named
                .iter()
                .map(|&(letter, _)| letter)
                .chain(matrix.iter().copied())
                .collect();
            (val.reshape(extents), letters)
        };
        let (left_val, left_letters) = operand(self, &named_left, left_matrix, &left);
        let (right_val, right_letters) = operand(other, &named_right, right_matrix, &right);
        let mut out: Vec<char> = (0..rank).rev().map(letter).collect();
        out.extend(left_matrix.iter().chain(right_matrix).filter(|&&letter| letter != k));
        let einsum = Einsum {
            left: left_letters,
            right: right_letters,
            out,
        };
        to.push(Op::Einsum(einsum), &[left_val, right_val])
    }

    /// The inner product of two vectors.
    #[track_caller]
    pub fn dot(self, other: Val<'g>) -> Val<'g> {
        Val::einsum("i,i->", &[self, other])
    }

    /// Every product of an element of this vector with one of `other`: a matrix.
    #[track_caller]
    pub fn outer(self, other: Val<'g>) -> Val<'g> {
        Val::einsum("i,j->ij", &[self, other])
    }
}

/// Whether a specification fits its operands; extents that differ between two operands are the op's own to report.
fn check_operands(spec: Spec, operands: &[Val<'_>]) -> Result<Spec, String> {
    if spec.operands.len() != operands.len() {
        return Err(format!(
            "{} operands are named, {} given",
            spec.operands.len(),
            operands.len()
        ));
    }
    let mut extents: Vec<(char, usize, Val<'_>)> = Vec::new();
    for (&val, letters) in operands.iter().zip(&spec.operands) {
        if letters.len() != val.rank() {
            return Err(format!(
                "{} axes are named for {val}, which has {}",
                letters.len(),
                val.rank()
            ));
        }
        for (&letter, extent) in letters.iter().zip(val.shape()) {
            match extents.iter().find(|(known, ..)| *known == letter) {
                None => extents.push((letter, extent, val)),
                Some((_, known, first)) if *known != extent => {
                    return Err(format!("axis `{letter}` is {known} in {first} and {extent} in {val}"));
                }
                Some(_) => {}
            }
        }
    }
    check_distinct("result", &spec.out)?;
    match spec
        .out
        .iter()
        .find(|letter| extents.iter().all(|(known, ..)| known != *letter))
    {
        Some(letter) => Err(format!("axis `{letter}` of the result is in no operand")),
        None => Ok(spec),
    }
}

/// The operand with each letter on one axis only: of axes that share a letter, the diagonal.
fn diagonal<'g>(val: Val<'g>, letters: &[char]) -> (Val<'g>, Vec<char>) {
    let (mut val, mut letters) = (val, letters.to_vec());
    let twice = |letters: &[char]| {
        let pairs = (0..letters.len()).flat_map(|one| (one + 1..letters.len()).map(move |other| (one, other)));
        pairs.into_iter().find(|&(one, other)| letters[one] == letters[other])
    };
    while let Some((one, other)) = twice(&letters) {
        // The two axes go last and become one, on which the diagonal is every (n + 1)-th element.
        let mut order: Vec<usize> = (0..letters.len())
            .filter(|&axis| axis != one && axis != other)
            .collect();
        let shape = val.shape();
        let mut merged: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let rest: Vec<char> = order.iter().map(|&axis| letters[axis]).collect();
        let extent = shape[one];
        order.extend([one, other]);
        let slice = View::Slice {
            start: vec![0; merged.len() + 1],
            step: merged.iter().map(|_| 1).chain([extent + 1]).collect(),
            count: merged.iter().copied().chain([extent]).collect(),
        };
        merged.push(extent * extent);
        val = val
            .builder()
            .push(Op::View(slice), &[val.permute(order).reshape(merged)]);
        letters = rest.into_iter().chain([letters[one]]).collect();
    }
    (val, letters)
}

/// The two terms whose contraction has the fewest products.
fn cheapest_pair(terms: &[(Val<'_>, Vec<char>)]) -> (usize, usize) {
    let cost = |one: usize, other: usize| -> u128 {
        let (left, right) = (&terms[one], &terms[other]);
        let fresh = right
            .1
            .iter()
            .zip(right.0.shape())
            .filter(|(letter, _)| !left.1.contains(letter));
        let extents = left.0.shape().into_iter().chain(fresh.map(|(_, extent)| extent));
        extents.map(|extent| extent as u128).fold(1, u128::saturating_mul)
    };
    let pairs = (0..terms.len()).flat_map(|one| (one + 1..terms.len()).map(move |other| (one, other)));
    pairs
        .min_by_key(|&(one, other)| cost(one, other))
        .expect("two terms at least")
}

/// Sums over the letters that the result lacks and brings the others into its order.
fn arrange<'g>(val: Val<'g>, letters: &[char], out: &[char]) -> Val<'g> {
    let lacking = |axis: &usize| !out.contains(&letters[*axis]);
    let axes: Vec<usize> = (0..letters.len()).filter(lacking).collect();
    let kept: Vec<char> = letters.iter().copied().filter(|letter| out.contains(letter)).collect();
    let sum = match axes.is_empty() {
        true => val,
        false => val.builder().push(
            Op::Fold(Fold {
                with: Combine::Sum,
                axes,
            }),
            &[val],
        ),
    };
    let place = |letter: &char| {
        kept.iter()
            .position(|other| other == letter)
            .expect("the result's letters were checked")
    };
    sum.permute(out.iter().map(place).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::ops::parse;

    #[test]
    fn text_round_trips() {
        let (left, right, out) = (vec!['m', 'k'], vec!['k', 'n'], vec!['m', 'n']);
        let op = Op::Einsum(Einsum { left, right, out });
        let attrs = op.rules().attrs();
        assert_eq!(attrs, [("", Attr::Text("mk,kn->mn".to_owned()))]);
        assert_eq!(parse(op.name(), &attrs.into_iter().collect()), Ok(op));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let cases = [
            (
                "mk,kn->mn",
                "einsum: axis `k` is 3 in %0: f32[2,3] and 4 in %1: f32[4,5], in \"mk,kn->mn\"",
            ),
            ("mk->m", "einsum: 1 operands are named, 2 given, in \"mk->m\""),
            (
                "mkx,kn->mn",
                "einsum: 3 axes are named for %0: f32[2,3], which has 2, in \"mkx,kn->mn\"",
            ),
            (
                "mk,ln->mq",
                "einsum: axis `q` of the result is in no operand, in \"mk,ln->mq\"",
            ),
            (
                "mk,ln->mm",
                "einsum: axis `m` is named twice on the result, in \"mk,ln->mm\"",
            ),
            ("m.,ln->m", "einsum: `.` is not a letter, in \"m.,ln->m\""),
        ];
        for (spec, expected) in cases {
            let b = Builder::new();
            let (x, y) = (b.input("x", DType::F32, [2, 3]), b.input("y", DType::F32, [4, 5]));
            Val::einsum(spec, &[x, y]);
            assert_eq!(b.problems()[0].message, expected);
        }
    }

    #[test]
    fn matmul_says_which_axis_differs() {
        let b = Builder::new();
        let (x, y) = (b.input("x", DType::F32, [8, 64]), b.input("y", DType::F32, [32, 16]));
        x.matmul(y);
        let problem = &b.problems()[0];
        assert_eq!(
            problem.message,
            "einsum: axis `k` is 64 on the left and 32 on the right"
        );
        assert_eq!(problem.notes, ["%0: f32[8,64]", "%1: f32[32,16]"]);
    }

    #[test]
    fn integers_wrap_in_their_type() {
        let einsum = Einsum {
            left: vec!['i'],
            right: vec!['i'],
            out: vec![],
        };
        let bytes = |elements: [u8; 2]| Tensor::from_bytes(DType::U8, [2], elements.to_vec());
        let sum = einsum.eval(&[&bytes([200, 100]), &bytes([2, 3])]);
        assert_eq!(sum[0].get(0), Scalar::Int((400 + 300) % 256));
    }

    #[test]
    fn the_cheapest_pair_is_contracted_first() {
        let b = Builder::new();
        let input = |name: &str, shape: [usize; 2]| b.input(name, DType::F32, shape);
        let operands = [input("x", [100, 100]), input("y", [100, 100]), input("z", [100, 1])];
        let product = Val::einsum("ij,jk,kl->il", &operands);
        let graph = b.finish([("product", product)]).expect("a graph");
        let inner = graph.node(graph.outputs[0].1).args[1];
        assert_eq!(
            graph.ty(inner).shape,
            [100, 1],
            "y and z first: 10^4 products each time instead of 10^6"
        );
    }
}
