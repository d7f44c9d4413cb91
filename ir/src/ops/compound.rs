//! Ops that hold body graphs: scan, if, while.
//!
//! A body is a graph whose inputs are matched by position. Bodies see nothing outside: what they need from around them is an
//! operand and a body input.

mod back;
pub(crate) mod remake;

use std::sync::Arc;

use crate::autodiff::{Vjp, grad_from};
use crate::builder::{Builder, Val};
use crate::dtype::{DType, Scalar};
use crate::error::Problems;
use crate::graph::Graph;
use crate::kernel::ExprId;
use crate::kernel::build::KernelCx;
use crate::ops::{Attr, Attrs, Op, Rules};
use crate::oracle;
use crate::tensor::{Shape, Tensor, Type};

/// A loop of fixed length with carried values.
///
/// Operands: `carried` initial values, then `sliced` tensors whose first axis has `length` entries, then constants.
/// Body inputs, in the same order: the carried values, one entry of each sliced tensor (its first axis gone), the
/// constants, and, if `counted`, the step number as an `i64` scalar. Body outputs: the next carried values, then any number of
/// values to stack. Results: the last carried values, then the stacked values with a new first axis of `length`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// The body.
    pub body: Arc<Graph>,
    /// The number of steps.
    pub length: usize,
    /// The number of carried values.
    pub carried: usize,
    /// The number of sliced operands.
    pub sliced: usize,
    /// Whether the body's last input is the step number.
    pub counted: bool,
    /// Takes entries from last to first, and stacks so too; the step number still counts entries.
    pub reverse: bool,
}

/// Operands: a `bool` scalar, then the operands of both bodies, which have the same inputs and output types. Results: those of
/// the body chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Run if the condition is true.
    pub then: Arc<Graph>,
    /// Run otherwise.
    pub otherwise: Arc<Graph>,
}

/// Operands: `carried` initial values, then constants. `condition` gives a `bool` scalar, `body` the next carried values;
/// both see the carried values and the constants. Results: the last carried values. No gradient (the number of steps is data): use
/// scan for a loop that is differentiated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loop {
    /// Whether to go on.
    pub condition: Arc<Graph>,
    /// One step.
    pub body: Arc<Graph>,
    /// The number of carried values.
    pub carried: usize,
}

/// Reads `scan`, `if`, `while`.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let op = match name {
        "scan" => parse_scan(attrs).map(Op::Scan),
        "if" => parse_branch(attrs).map(Op::If),
        "while" => parse_loop(attrs).map(Op::While),
        _ => return None,
    };
    Some(op)
}

fn parse_scan(attrs: &Attrs) -> Result<Scan, String> {
    Ok(Scan {
        length: attrs.size("length")?,
        carried: attrs.size("carried")?,
        sliced: attrs.size("sliced")?,
        counted: attrs.flag("counted")?,
        reverse: attrs.flag("reverse")?,
        body: attrs.graph("body")?,
    })
}

fn parse_branch(attrs: &Attrs) -> Result<Branch, String> {
    Ok(Branch {
        then: attrs.graph("then")?,
        otherwise: attrs.graph("otherwise")?,
    })
}

fn parse_loop(attrs: &Attrs) -> Result<Loop, String> {
    Ok(Loop {
        carried: attrs.size("carried")?,
        condition: attrs.graph("condition")?,
        body: attrs.graph("body")?,
    })
}

impl Scan {
    /// The entries, in the order they are taken.
    fn entries(&self) -> Box<dyn Iterator<Item = usize>> {
        match self.reverse {
            false => Box::new(0..self.length),
            true => Box::new((0..self.length).rev()),
        }
    }

    /// The type of one entry of a sliced operand.
    fn entry_type(&self, place: usize, ty: &Type) -> Result<Type, String> {
        match ty.shape.split_first() {
            Some((&first, rest)) if first == self.length => Ok(Type::new(ty.dtype, rest)),
            _ => Err(format!(
                "operand {place} is sliced, so it must have {} entries, found {ty}",
                self.length
            )),
        }
    }
}

impl Rules for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let mut attrs = vec![
            ("length", Attr::size(self.length)),
            ("carried", Attr::size(self.carried)),
            ("sliced", Attr::size(self.sliced)),
        ];
        attrs.extend(self.counted.then_some(("counted", Attr::Bool(true))));
        attrs.extend(self.reverse.then_some(("reverse", Attr::Bool(true))));
        attrs.push(("body", Attr::Graph(self.body.clone())));
        attrs
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let named = self.carried + self.sliced;
        if args.len() < named {
            return Err(format!(
                "takes {named} operands at least, carried and sliced, found {}",
                args.len()
            ));
        }
        let mut given: Vec<Type> = args.iter().map(|&ty| ty.clone()).collect();
        for place in self.carried..named {
            given[place] = self.entry_type(place, args[place])?;
        }
        if self.counted {
            given.push(Type::new(DType::I64, []));
        }
        check_inputs("body", &self.body, &given)?;
        let outputs = output_types(&self.body);
        if outputs.len() < self.carried {
            let found = outputs.len();
            return Err(format!(
                "the body must give {} next carried values, it gives {found}",
                self.carried
            ));
        }
        if outputs.is_empty() {
            return Err("carries nothing and stacks nothing, so there is no result".to_owned());
        }
        let stack = |ty: &Type| Type::new(ty.dtype, [&[self.length], ty.shape.as_slice()].concat());
        let (next, stacked) = outputs.split_at(self.carried);
        check_carried("body", next, &given[..self.carried])?;
        Ok(next.iter().cloned().chain(stacked.iter().map(stack)).collect())
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let (carried, rest) = args.split_at(self.carried);
        let (sliced, constants) = rest.split_at(self.sliced);
        let share =
            |tensors: &[&Tensor]| -> Vec<Arc<Tensor>> { tensors.iter().map(|&x| Arc::new(x.clone())).collect() };
        let (mut carried, constants) = (share(carried), share(constants));
        let stacked_types = &output_types(&self.body)[self.carried..];
        let stack = |ty: &Type| Tensor::zeros(ty.dtype, [&[self.length], ty.shape.as_slice()].concat());
        let mut stacked: Vec<Tensor> = stacked_types.iter().map(stack).collect();
        for entry in self.entries() {
            let mut inputs = carried;
            inputs.extend(sliced.iter().map(|tensor| Arc::new(take_entry(tensor, entry))));
            inputs.extend(constants.iter().cloned());
            if self.counted {
                inputs.push(Arc::new(Tensor::scalar(DType::I64, Scalar::Int(entry as i128))));
            }
            let mut outputs = oracle::run_body(&self.body, &inputs);
            for (stack, output) in stacked.iter_mut().zip(outputs.drain(self.carried..)) {
                put_entry(stack, entry, &output);
            }
            carried = outputs;
        }
        carried.into_iter().map(Arc::unwrap_or_clone).chain(stacked).collect()
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        back::grad(self, vjp)
    }

    fn kernel(&self, _: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

impl Rules for Branch {
    fn name(&self) -> &'static str {
        "if"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![
            ("then", Attr::Graph(self.then.clone())),
            ("otherwise", Attr::Graph(self.otherwise.clone())),
        ]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let Some((condition, operands)) = args.split_first() else {
            return Err("takes a condition and the operands of the bodies, found no operand".to_owned());
        };
        check_condition("the condition", condition)?;
        let operands: Vec<Type> = operands.iter().map(|&ty| ty.clone()).collect();
        check_inputs("`then`", &self.then, &operands)?;
        check_inputs("`otherwise`", &self.otherwise, &operands)?;
        let (then, otherwise) = (output_types(&self.then), output_types(&self.otherwise));
        if then != otherwise {
            let (then, otherwise) = (show_types(&then), show_types(&otherwise));
            return Err(format!("`then` gives {then} and `otherwise` gives {otherwise}"));
        }
        if then.is_empty() {
            return Err("the bodies give nothing, so there is no result".to_owned());
        }
        Ok(then)
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let inputs: Vec<Arc<Tensor>> = args[1..].iter().map(|&tensor| Arc::new(tensor.clone())).collect();
        let chosen = if args[0].get(0).is_nonzero() {
            &self.then
        } else {
            &self.otherwise
        };
        oracle::run_body(chosen, &inputs)
            .into_iter()
            .map(Arc::unwrap_or_clone)
            .collect()
    }

    /// The same choice between the gradients of the bodies.
    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let results: Vec<usize> = (0..vjp.seeds.len())
            .filter(|&result| vjp.seeds[result].is_some())
            .collect();
        let wanted: Vec<usize> = (0..vjp.args.len() - 1).filter(|&place| vjp.wanted[place + 1]).collect();
        let mut gradients = vec![None; vjp.args.len()];
        let bodies = [&self.then, &self.otherwise].map(|body| pull_back(vjp.to, body, &results, &wanted));
        let [then, otherwise] = match bodies {
            [Ok(then), Ok(otherwise)] => [then, otherwise],
            wrong => {
                for problems in wrong.into_iter().filter_map(Result::err) {
                    vjp.to.report(problems);
                }
                return gradients;
            }
        };
        let seeds = results.iter().flat_map(|&result| vjp.seeds[result]);
        let args: Vec<Val<'g>> = vjp.args.iter().copied().chain(seeds).collect();
        let whole = vjp.to.push(Op::If(Branch { then, otherwise }), &args);
        for (result, &place) in wanted.iter().enumerate() {
            gradients[place + 1] = Some(whole.part(result));
        }
        gradients
    }

    fn kernel(&self, _: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

impl Rules for Loop {
    fn name(&self) -> &'static str {
        "while"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![
            ("carried", Attr::size(self.carried)),
            ("condition", Attr::Graph(self.condition.clone())),
            ("body", Attr::Graph(self.body.clone())),
        ]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        if args.len() < self.carried {
            return Err(format!(
                "takes {} carried operands at least, found {}",
                self.carried,
                args.len()
            ));
        }
        if self.carried == 0 {
            return Err("carries nothing, so there is no result".to_owned());
        }
        let given: Vec<Type> = args.iter().map(|&ty| ty.clone()).collect();
        check_inputs("`condition`", &self.condition, &given)?;
        check_inputs("`body`", &self.body, &given)?;
        match output_types(&self.condition).as_slice() {
            [go_on] => check_condition("what `condition` gives", go_on)?,
            many => {
                return Err(format!(
                    "`condition` must give one bool scalar, it gives {}",
                    show_types(many)
                ));
            }
        }
        let next = output_types(&self.body);
        check_carried("`body`", &next, &given[..self.carried])?;
        Ok(next)
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let mut inputs: Vec<Arc<Tensor>> = args.iter().map(|&tensor| Arc::new(tensor.clone())).collect();
        while oracle::run_body(&self.condition, &inputs)[0].get(0).is_nonzero() {
            let next = oracle::run_body(&self.body, &inputs);
            inputs.splice(..self.carried, next);
        }
        inputs.truncate(self.carried);
        inputs.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        vjp.to.problem(
            "while: has no gradient, because its number of steps is data; use `scan` with a fixed number of steps and an `if` in its body",
        );
        vec![None; vjp.args.len()]
    }

    fn kernel(&self, _: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

/// The gradient of a body as a body: inputs are the body's, then the gradients of these `results`; outputs are the gradients of
/// the `wanted` inputs.
fn pull_back(to: &Builder, body: &Graph, results: &[usize], wanted: &[usize]) -> Result<Arc<Graph>, Problems> {
    let back = Builder::for_body(to);
    let input = |(place, ty): (usize, Type)| back.input(&format!("x{place}"), ty.dtype, ty.shape);
    let inputs: Vec<Val<'_>> = body_input_types(body).into_iter().enumerate().map(input).collect();
    let outputs = back.inline(body, &inputs);
    let seed = |&result: &usize| {
        let ty = outputs[result].ty();
        (
            outputs[result],
            back.input(&format!("seed{result}"), ty.dtype, ty.shape),
        )
    };
    let seeds: Vec<(Val<'_>, Val<'_>)> = results.iter().map(seed).collect();
    let wrt: Vec<Val<'_>> = wanted.iter().map(|&place| inputs[place]).collect();
    finish_body(&back, &grad_from(&seeds, &wrt))
}

fn finish_body(body: &Builder, outputs: &[Val<'_>]) -> Result<Arc<Graph>, Problems> {
    let named = outputs
        .iter()
        .enumerate()
        .map(|(place, &val)| (format!("y{place}"), val));
    body.finish(named).map(Arc::new)
}

fn body_input_types(body: &Graph) -> Vec<Type> {
    body.inputs().iter().map(|&id| body.ty(id).clone()).collect()
}

fn output_types(body: &Graph) -> Vec<Type> {
    body.outputs.iter().map(|(_, id)| body.ty(*id).clone()).collect()
}

fn show_types(types: &[Type]) -> String {
    let types: Vec<String> = types.iter().map(Type::to_string).collect();
    format!("({})", types.join(", "))
}

fn check_inputs(name: &str, body: &Graph, given: &[Type]) -> Result<(), String> {
    let inputs = body_input_types(body);
    if inputs.len() != given.len() {
        let (takes, found) = (inputs.len(), given.len());
        return Err(format!(
            "the {name} takes {takes} inputs, {found} are given: {}",
            show_types(given)
        ));
    }
    for (place, (input, given)) in inputs.iter().zip(given).enumerate() {
        if (input.dtype, &input.shape) != (given.dtype, &given.shape) {
            return Err(format!("input {place} of the {name} is {input}, it is given {given}"));
        }
    }
    Ok(())
}

fn check_carried(name: &str, next: &[Type], carried: &[Type]) -> Result<(), String> {
    if next.len() != carried.len() {
        return Err(format!(
            "the {name} must give {} next carried values, it gives {}",
            carried.len(),
            next.len()
        ));
    }
    match next
        .iter()
        .zip(carried)
        .enumerate()
        .find(|(_, (next, carried))| next != carried)
    {
        Some((place, (next, carried))) => Err(format!(
            "carried value {place} is {carried}, the {name} makes it {next}"
        )),
        None => Ok(()),
    }
}

fn check_condition(what: &str, ty: &Type) -> Result<(), String> {
    match ty.dtype == DType::Bool && ty.rank() == 0 {
        true => Ok(()),
        false => Err(format!("{what} must be bool{}, found {ty}", Shape(&[]))),
    }
}

/// One entry along the first axis.
fn take_entry(tensor: &Tensor, entry: usize) -> Tensor {
    let shape = &tensor.shape()[1..];
    let len_bytes = shape.iter().product::<usize>() * tensor.dtype().size_bytes();
    Tensor::from_bytes(
        tensor.dtype(),
        shape,
        tensor.bytes()[entry * len_bytes..][..len_bytes].to_vec(),
    )
}

/// Overwrites one entry along the first axis.
fn put_entry(stack: &mut Tensor, entry: usize, value: &Tensor) {
    let len_bytes = value.bytes().len();
    stack.bytes_mut()[entry * len_bytes..][..len_bytes].copy_from_slice(value.bytes());
}

/// What [`Builder::scan`] loops over.
#[derive(Clone, Debug)]
pub struct Steps<'g> {
    /// The number of steps.
    pub length: usize,
    /// Initial values of what one step hands to the next.
    pub carried: Vec<Val<'g>>,
    /// Tensors with `length` entries along their first axis; each step sees one entry.
    pub sliced: Vec<Val<'g>>,
    /// Values that every step sees whole.
    pub constants: Vec<Val<'g>>,
    /// Takes entries from last to first.
    pub reverse: bool,
}

/// What one step of [`Builder::scan`] sees.
#[derive(Clone, Debug)]
pub struct Step<'b> {
    /// What the step before handed on.
    pub carried: Vec<Val<'b>>,
    /// One entry of each sliced tensor.
    pub sliced: Vec<Val<'b>>,
    /// The constants.
    pub constants: Vec<Val<'b>>,
    /// The number of the entry, an `i64` scalar. Random draws must depend on it, or every step draws the same.
    pub entry: Val<'b>,
}

impl Builder {
    /// A loop of fixed length. `body` gives, for one step, the next carried values and what is stacked over the steps; the
    /// results are the last carried values and the stacks.
    ///
    /// ```
    /// # use netloom_ir::{Builder, DType, ops::compound::Steps};
    /// let b = Builder::new();
    /// let xs = b.input("xs", DType::F32, [5, 3]);
    /// let (decay, zero) = (b.scalar(DType::F32, 0.9), b.full(DType::F32, [3], 0.0));
    /// let steps = Steps { length: 5, carried: vec![zero], sliced: vec![xs], constants: vec![decay], reverse: false };
    /// let (last, stacked) = b.scan(steps, |_, step| {
    ///     let average = step.carried[0] * step.constants[0] + step.sliced[0];
    ///     (vec![average], vec![average])
    /// });
    /// assert_eq!((last[0].shape(), stacked[0].shape()), (vec![3], vec![5, 3]));
    /// ```
    #[track_caller]
    pub fn scan<'g>(
        &'g self,
        steps: Steps<'g>,
        body: impl for<'b> FnOnce(&'b Builder, Step<'b>) -> (Vec<Val<'b>>, Vec<Val<'b>>),
    ) -> (Vec<Val<'g>>, Vec<Val<'g>>) {
        let carried = steps.carried.len();
        let inner = Builder::for_body(self);
        let entry_of = |val: &Val<'g>| Type::new(val.dtype(), val.shape().get(1..).unwrap_or(&[]));
        let step = Step {
            carried: declare(&inner, "carried", steps.carried.iter().map(|val| val.ty())),
            sliced: declare(&inner, "sliced", steps.sliced.iter().map(entry_of)),
            constants: declare(&inner, "constant", steps.constants.iter().map(|val| val.ty())),
            entry: inner.input("entry", DType::I64, []),
        };
        let (next, stacked) = body(&inner, step);
        let counts = (next.len(), stacked.len());
        let args = [&steps.carried[..], &steps.sliced, &steps.constants].concat();
        let whole = match self.close_body(&inner, &[next, stacked].concat()) {
            Ok(body) => {
                let scan = Scan {
                    body,
                    length: steps.length,
                    carried,
                    sliced: steps.sliced.len(),
                    counted: true,
                    reverse: steps.reverse,
                };
                self.push(Op::Scan(scan), &args)
            }
            Err(poison) => poison,
        };
        let mut last = parts(whole, counts.0 + counts.1);
        let stacked = last.split_off(counts.0);
        (last, stacked)
    }

    /// The results of `then` if `condition`, a `bool` scalar, holds, else those of `otherwise`; both are given `operands`.
    #[track_caller]
    pub fn if_<'g>(
        &'g self,
        condition: Val<'g>,
        operands: &[Val<'g>],
        then: impl for<'b> FnOnce(&'b Builder, &[Val<'b>]) -> Vec<Val<'b>>,
        otherwise: impl for<'b> FnOnce(&'b Builder, &[Val<'b>]) -> Vec<Val<'b>>,
    ) -> Vec<Val<'g>> {
        let types: Vec<Type> = operands.iter().map(|val| val.ty()).collect();
        let inner = Builder::for_body(self);
        let results = then(&inner, &declare(&inner, "x", types.iter().cloned()));
        let count = results.len();
        let then = self.close_body(&inner, &results);
        let inner = Builder::for_body(self);
        let results = otherwise(&inner, &declare(&inner, "x", types.into_iter()));
        let otherwise = self.close_body(&inner, &results);
        let args: Vec<Val<'g>> = std::iter::once(condition).chain(operands.iter().copied()).collect();
        let whole = match (then, otherwise) {
            (Ok(then), Ok(otherwise)) => self.push(Op::If(Branch { then, otherwise }), &args),
            (Err(poison), _) | (_, Err(poison)) => poison,
        };
        parts(whole, count)
    }

    /// Repeats `body` while `condition`, a `bool` scalar, holds. Both are given the carried values and the constants; `body` gives
    /// the next carried values, and the last of them are the results.
    #[track_caller]
    pub fn while_<'g>(
        &'g self,
        carried: &[Val<'g>],
        constants: &[Val<'g>],
        condition: impl for<'b> FnOnce(&'b Builder, &[Val<'b>], &[Val<'b>]) -> Val<'b>,
        body: impl for<'b> FnOnce(&'b Builder, &[Val<'b>], &[Val<'b>]) -> Vec<Val<'b>>,
    ) -> Vec<Val<'g>> {
        let args = [carried, constants].concat();
        let types: Vec<Type> = args.iter().map(|val| val.ty()).collect();
        let inner = Builder::for_body(self);
        let inputs = declare(&inner, "x", types.iter().cloned());
        let (inner_carried, inner_constants) = inputs.split_at(carried.len());
        let go_on = condition(&inner, inner_carried, inner_constants);
        let condition = self.close_body(&inner, &[go_on]);
        let inner = Builder::for_body(self);
        let inputs = declare(&inner, "x", types.into_iter());
        let (inner_carried, inner_constants) = inputs.split_at(carried.len());
        let next = body(&inner, inner_carried, inner_constants);
        let body = self.close_body(&inner, &next);
        let whole = match (condition, body) {
            (Ok(condition), Ok(body)) => {
                let carried = carried.len();
                self.push(
                    Op::While(Loop {
                        condition,
                        body,
                        carried,
                    }),
                    &args,
                )
            }
            (Err(poison), _) | (_, Err(poison)) => poison,
        };
        parts(whole, carried.len())
    }

    /// The body that `inner` has built, or the poison that stands for its problems, which this builder reports.
    fn close_body(&self, inner: &Builder, outputs: &[Val<'_>]) -> Result<Arc<Graph>, Val<'_>> {
        self.take_streams(inner);
        finish_body(inner, outputs).map_err(|problems| self.report(problems))
    }
}

fn declare<'b>(body: &'b Builder, name: &str, types: impl Iterator<Item = Type>) -> Vec<Val<'b>> {
    let input = |(place, ty): (usize, Type)| body.input(&format!("{name}{place}"), ty.dtype, ty.shape);
    types.enumerate().map(input).collect()
}

#[track_caller]
fn parts(whole: Val<'_>, count: usize) -> Vec<Val<'_>> {
    // Not a closure, which would lose the caller's place.
    let mut parts = Vec::with_capacity(count);
    for part in 0..count {
        parts.push(whole.part(part));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::map::compare;
    use crate::ops::parse;

    fn steps<'g>(carried: Vec<Val<'g>>, sliced: Vec<Val<'g>>, reverse: bool) -> Steps<'g> {
        Steps {
            length: 3,
            carried,
            sliced,
            constants: vec![],
            reverse,
        }
    }

    fn outputs(graph: &Graph, inputs: &[(&str, Tensor)]) -> Vec<Vec<f32>> {
        let outputs = oracle::run(graph, inputs).expect("inputs fit");
        outputs.iter().map(|(_, value)| value.to_f32()).collect()
    }

    #[test]
    fn a_scan_carries_slices_stacks_and_counts_in_both_directions() {
        for (reverse, last, stacked) in [(false, 321.0, [1.0, 21.0, 321.0]), (true, 123.0, [123.0, 23.0, 3.0])] {
            let b = Builder::new();
            let x = b.input("x", DType::F32, [3]);
            let zero = b.scalar(DType::F32, 0.0);
            let one = b.scalar(DType::F32, 1.0);
            let (carried, stacks) = b.scan(steps(vec![zero, one], vec![x], reverse), |_, step| {
                let sum = step.carried[0] + step.carried[1] * step.sliced[0];
                (vec![sum, step.carried[1] * 10.0], vec![sum, step.entry])
            });
            let named = [("last", carried[0]), ("sums", stacks[0]), ("entries", stacks[1])];
            let graph = b.finish(named).expect("a graph");
            let found = outputs(&graph, &[("x", Tensor::from_f32([3], &[1.0, 2.0, 3.0]))]);
            assert_eq!(found, [vec![last], stacked.to_vec(), vec![0.0, 1.0, 2.0]]);
        }
    }

    #[test]
    fn a_while_runs_until_its_condition_fails() {
        let b = Builder::new();
        let (x, limit) = (b.input("x", DType::F32, []), b.input("limit", DType::F32, []));
        let result = b.while_(
            &[x],
            &[limit],
            |_, carried, constants| Val::map(&compare::LT, &[carried[0], constants[0]]),
            |_, carried, _| vec![carried[0] * 2.0],
        );
        let graph = b.finish([("result", result[0])]).expect("a graph");
        let scalar = |value: f32| Tensor::from_f32([], &[value]);
        assert_eq!(
            outputs(&graph, &[("x", scalar(3.0)), ("limit", scalar(20.0))]),
            [[24.0]]
        );
        assert_eq!(outputs(&graph, &[("x", scalar(3.0)), ("limit", scalar(1.0))]), [[3.0]]);
    }

    #[test]
    fn an_if_runs_the_body_chosen() {
        let b = Builder::new();
        let (c, x) = (b.input("c", DType::Bool, []), b.input("x", DType::F32, []));
        let result = b.if_(c, &[x], |_, x| vec![x[0] + 1.0], |_, x| vec![x[0] * 10.0]);
        let graph = b.finish([("result", result[0])]).expect("a graph");
        for (chosen, expected) in [(true, 3.0), (false, 20.0)] {
            let c = Tensor::scalar(DType::Bool, Scalar::Bool(chosen));
            assert_eq!(
                outputs(&graph, &[("c", c), ("x", Tensor::from_f32([], &[2.0]))]),
                [[expected]]
            );
        }
    }

    #[test]
    fn draws_in_bodies_have_streams_of_their_own() {
        let b = Builder::new();
        let (key, step) = (b.scalar(DType::U64, 1.0), b.scalar(DType::U64, 2.0));
        let before = b.random_bits(key, step, [4]);
        let loops = Steps {
            constants: vec![key, step],
            ..steps(vec![], vec![], false)
        };
        let (_, drawn) = b.scan(loops, |b, step| {
            let bits = b.random_bits(step.constants[0], step.constants[1], [4]);
            (vec![], vec![bits])
        });
        let after = b.random_bits(key, step, [4]);
        let graph = b
            .finish([("before", before), ("drawn", drawn[0]), ("after", after)])
            .expect("a graph");
        let mut streams: Vec<u32> = graph
            .nodes()
            .map(|(_, node)| match &node.op {
                Op::Scan(scan) => scan
                    .body
                    .nodes()
                    .map(|(_, node)| stream(&node.op))
                    .max()
                    .expect("a draw"),
                op => stream(op),
            })
            .filter(|&stream| stream > 0)
            .collect();
        streams.dedup();
        assert_eq!(streams, [1, 2, 3]);
        let b = Builder::from_graph(graph);
        let [later, ..] = b.random_words(b.scalar(DType::U64, 1.0), b.scalar(DType::U64, 2.0), 4);
        assert_eq!(
            stream(&b.node(later.id()).op),
            4,
            "a builder goes on after the streams of bodies"
        );
    }

    /// The stream of a draw, from 1; 0 for other ops.
    fn stream(op: &Op) -> u32 {
        match op {
            Op::Random(random) => random.stream + 1,
            _ => 0,
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let b = Builder::new();
        let (x, c) = (b.input("x", DType::F32, [3]), b.input("c", DType::Bool, []));
        let short = b.input("short", DType::F32, [2]);
        b.scan(steps(vec![x], vec![short], false), |_, step| (step.carried, vec![]));
        b.scan(steps(vec![x], vec![], false), |_, step| (vec![step.entry], vec![]));
        b.scan(steps(vec![], vec![], false), |_, _| (vec![], vec![]));
        b.if_(c, &[x], |_, x| vec![x[0]], |_, x| vec![x[0].reshape([3, 1])]);
        b.if_(
            x,
            &[],
            |b, _| vec![b.scalar(DType::F32, 1.0)],
            |b, _| vec![b.scalar(DType::F32, 2.0)],
        );
        b.while_(&[x], &[], |_, carried, _| carried[0], |_, carried, _| carried.to_vec());
        b.while_(
            &[x],
            &[c],
            |_, _, constants| constants[0],
            |_, carried, _| vec![carried[0].reshape([1, 3])],
        );
        // What is wrong inside a body is reported outside.
        b.if_(c, &[x, short], |_, x| vec![x[0] + x[1]], |_, x| vec![x[0]]);
        let messages: Vec<String> = b.problems().into_iter().map(|problem| problem.message).collect();
        assert_eq!(
            messages,
            [
                "scan: operand 1 is sliced, so it must have 3 entries, found f32[2]",
                "scan: carried value 0 is f32[3], the body makes it i64[]",
                "scan: carries nothing and stacks nothing, so there is no result",
                "if: `then` gives (f32[3]) and `otherwise` gives (f32[3,1])",
                "if: the condition must be bool[], found f32[3]",
                "while: what `condition` gives must be bool[], found f32[3]",
                "while: carried value 0 is f32[3], the `body` makes it f32[1,3]",
                "add: shapes do not broadcast to one: f32[3] and f32[2]",
            ]
        );
    }

    #[test]
    fn text_round_trips() {
        let b = Builder::new();
        let x = b.input("x", DType::Bool, []);
        let body = Arc::new(b.finish([("y", x)]).expect("a graph"));
        let ops = [
            Op::Scan(Scan {
                body: body.clone(),
                length: 3,
                carried: 1,
                sliced: 0,
                counted: true,
                reverse: true,
            }),
            Op::Scan(Scan {
                body: body.clone(),
                length: 0,
                carried: 0,
                sliced: 1,
                counted: false,
                reverse: false,
            }),
            Op::If(Branch {
                then: body.clone(),
                otherwise: body.clone(),
            }),
            Op::While(Loop {
                condition: body.clone(),
                body,
                carried: 1,
            }),
        ];
        for op in ops {
            assert_eq!(parse(op.name(), &op.rules().attrs().into_iter().collect()), Ok(op));
        }
    }
}
