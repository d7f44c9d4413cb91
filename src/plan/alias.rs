//! Whether a kernel may write an output over an operand.

use std::collections::HashSet;

use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, Nest, Operands, Stmt};

/// Whether buffers `input` and `output` of the nest may be the same memory.
///
/// The types agree, and the operand is read in one list of statements alone: neighbouring stores, which are one step
/// ([`netloom_ir::kernel::nest`]), of which one writes the output at the very element that is read. Nothing has written to the output
/// before, neither an earlier loop nor an earlier turn of a loop around, since each turn writes another element.
pub fn in_place(nest: &Nest, input: usize, output: usize) -> bool {
    let (input, output) = (BufferId(input as u32), BufferId(output as u32));
    let mut search = Search {
        nest,
        input,
        output,
        axes: Vec::new(),
        is_read: false,
        is_written: false,
    };
    nest.buffers[input.at()].ty == nest.buffers[output.at()].ty && search.list(&nest.body)
}

/// A walk over the statements in the order in which they run.
struct Search<'n> {
    nest: &'n Nest,
    input: BufferId,
    output: BufferId,
    /// The loops around that run more than once.
    axes: Vec<AxisId>,
    /// Whether a list before has read the operand.
    is_read: bool,
    /// Whether a list before has written the output.
    is_written: bool,
}

impl Search<'_> {
    /// Whether a list of statements, and those within, keep the rule.
    fn list(&mut self, body: &[Stmt]) -> bool {
        let all_stores = body.iter().all(|stmt| matches!(stmt, Stmt::Store { .. }));
        if all_stores {
            return self.stores(body);
        }
        body.iter().all(|stmt| match stmt {
            Stmt::Loop { axis, extent, body, .. } => {
                let is_repeated = !matches!(self.nest.exprs.get(*extent), Expr::Const(_, 0 | 1));
                if is_repeated {
                    self.axes.push(*axis);
                }
                let holds = !self.is_read_by(*extent) && self.list(body);
                if is_repeated {
                    self.axes.pop();
                }
                holds
            }
            Stmt::If {
                condition,
                then,
                otherwise,
            } => !self.is_read_by(*condition) && self.list(then) && self.list(otherwise),
            Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => !self.is_read_by(*value),
            Stmt::Store { buffer, index, value } => {
                self.is_written |= *buffer == self.output;
                !index.iter().chain([value]).any(|&id| self.is_read_by(id))
            }
            Stmt::Contract(contract) => [&contract.a, &contract.b, &contract.c]
                .iter()
                .all(|operand| operand.buffer != self.input && operand.buffer != self.output),
            Stmt::Product(product) => [&product.a, &product.b, &product.c]
                .iter()
                .all(|side| side.buffer != self.input && side.buffer != self.output),
            Stmt::Prefetch { .. } | Stmt::Barrier => true,
        })
    }

    /// The same for neighbouring stores with nothing else beside them.
    fn stores(&mut self, body: &[Stmt]) -> bool {
        let (mut read, mut written) = (Vec::new(), Vec::new());
        for stmt in body {
            let Stmt::Store { buffer, index, value } = stmt else {
                unreachable!("a list of stores")
            };
            if index.iter().any(|&id| self.is_read_by(id)) {
                return false;
            }
            read.extend(reads(self.nest, *value, self.input));
            if *buffer == self.output {
                written.push(index);
            }
        }
        let holds = read.is_empty()
            || !self.is_read
                && !self.is_written
                && matches!(written[..], [index] if read.iter().all(|at| at[..] == index[..]) && self.moves_with_every_loop(index));
        self.is_read |= !read.is_empty();
        self.is_written |= !written.is_empty();
        holds
    }

    /// Whether an index depends on every loop around.
    fn moves_with_every_loop(&self, index: &[ExprId]) -> bool {
        let exprs = &self.nest.exprs;
        let found: HashSet<AxisId> = reachable(self.nest, index.to_vec())
            .filter_map(|id| match exprs.get(id) {
                Expr::Axis(axis) => Some(*axis),
                _ => None,
            })
            .collect();
        self.axes.iter().all(|axis| found.contains(axis))
    }

    fn is_read_by(&self, root: ExprId) -> bool {
        !reads(self.nest, root, self.input).is_empty()
    }
}

/// The indices at which an expression reads a buffer.
fn reads(nest: &Nest, root: ExprId, buffer: BufferId) -> Vec<Operands> {
    reachable(nest, vec![root])
        .filter_map(|id| match nest.exprs.get(id) {
            Expr::Load {
                buffer: read, index, ..
            } if *read == buffer => Some(index.clone()),
            _ => None,
        })
        .collect()
}

/// The expressions that some are made of, themselves included, each once.
fn reachable(nest: &Nest, mut open: Vec<ExprId>) -> impl Iterator<Item = ExprId> {
    let mut seen = HashSet::new();
    std::iter::from_fn(move || {
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(nest.exprs.operands(id));
                return Some(id);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use netloom_ir::kernel::{Axis, Bind, Buffer, Combine, Contract, Exprs, Local, LocalId, Operand, Prim, Role};
    use netloom_ir::target::TargetKind;
    use netloom_ir::{DType, Type};

    use super::*;

    const N: usize = 4;

    /// A nest over `[N, N]`: buffers 0 and 1 are read, 2 and 3 written, 4 is scratch.
    struct Build {
        nest: Nest,
    }

    impl Build {
        fn new() -> Build {
            let mut exprs = Exprs::default();
            let axes = ["i", "j", "k"].map(|name| {
                exprs.add_axis(N);
                Axis {
                    name: name.into(),
                    extent: N,
                }
            });
            let roles = [
                Role::Input,
                Role::Input,
                Role::Output,
                Role::Output,
                Role::SharedScratch,
            ];
            let buffers = roles.iter().enumerate().map(|(at, role)| Buffer {
                name: format!("b{at}"),
                ty: Type::new(DType::F32, [N, N]),
                role: *role,
            });
            let locals = vec![Local {
                name: "sum".into(),
                dtype: DType::F32,
            }];
            Build {
                nest: Nest {
                    name: "k".into(),
                    kind: TargetKind::Cpu,
                    axes: axes.to_vec(),
                    buffers: buffers.collect(),
                    layouts: Vec::new(),
                    locals,
                    exprs,
                    body: Vec::new(),
                },
            }
        }

        fn index(&mut self, axes: [u32; 2]) -> Vec<ExprId> {
            axes.iter().map(|&axis| self.nest.exprs.axis(AxisId(axis))).collect()
        }

        fn load(&mut self, buffer: u32, axes: [u32; 2]) -> ExprId {
            let index = self.index(axes);
            self.nest.exprs.load(BufferId(buffer), DType::F32, index, false)
        }

        fn sum(&mut self, a: ExprId, b: ExprId) -> ExprId {
            self.nest.exprs.prim(Prim::Add, DType::F32, &[a, b])
        }

        fn store(&mut self, buffer: u32, axes: [u32; 2], value: ExprId) -> Stmt {
            Stmt::Store {
                buffer: BufferId(buffer),
                index: self.index(axes),
                value,
            }
        }

        /// Loops over the axes, the first outermost.
        fn loops(&mut self, axes: &[u32], body: Vec<Stmt>) -> Stmt {
            let [axis, inner @ ..] = axes else {
                unreachable!("at least one axis")
            };
            let body = if inner.is_empty() {
                body
            } else {
                vec![self.loops(inner, body)]
            };
            Stmt::Loop {
                axis: AxisId(*axis),
                extent: self.nest.exprs.int(N as i64),
                bind: Bind::Serial,
                body,
            }
        }
    }

    /// A nest's name, how it is made, and for each of the pairs of input and output 0→2, 0→3, 1→2, 1→3 whether they may be one.
    type Case = (&'static str, fn(&mut Build) -> Vec<Stmt>, [bool; 4]);

    const CASES: &[Case] = &[
        (
            "two results from two operands, as an optimiser's: all read before any is written",
            |b| {
                let (x, y) = (b.load(0, [0, 1]), b.load(1, [0, 1]));
                let both = b.sum(x, y);
                let stores = vec![b.store(2, [0, 1], y), b.store(3, [0, 1], both)];
                vec![b.loops(&[0, 1], stores)]
            },
            [true, true, true, true],
        ),
        (
            "a row that is read before, in a loop of its own",
            |b| {
                let x = b.load(0, [0, 1]);
                let sum = Stmt::Accumulate {
                    local: LocalId(0),
                    with: Combine::Sum,
                    value: x,
                };
                let first = b.loops(&[1], vec![sum]);
                let local = b.nest.exprs.local(LocalId(0), DType::F32);
                let y = b.load(1, [0, 2]);
                let shifted = b.sum(local, y);
                let stores = vec![b.store(2, [0, 2], shifted)];
                let second = b.loops(&[2], stores);
                vec![b.loops(&[0], vec![first, second])]
            },
            [false, false, true, false],
        ),
        (
            "read in an earlier loop of the row, and again where it is written",
            |b| {
                let x = b.load(0, [0, 1]);
                let sum = Stmt::Accumulate {
                    local: LocalId(0),
                    with: Combine::Max,
                    value: x,
                };
                let first = b.loops(&[1], vec![sum]);
                let local = b.nest.exprs.local(LocalId(0), DType::F32);
                let x = b.load(0, [0, 2]);
                let value = b.sum(local, x);
                let stores = vec![b.store(2, [0, 2], value)];
                let second = b.loops(&[2], stores);
                vec![b.loops(&[0], vec![first, second])]
            },
            [false, false, true, true],
        ),
        (
            "transposed",
            |b| {
                let x = b.load(0, [1, 0]);
                let stores = vec![b.store(2, [0, 1], x)];
                vec![b.loops(&[0, 1], stores)]
            },
            [false, false, true, true],
        ),
        (
            "sibling loops that both read",
            |b| {
                let x = b.load(0, [0, 1]);
                let (first, second) = (vec![b.store(2, [0, 1], x)], vec![b.store(3, [0, 1], x)]);
                vec![b.loops(&[0, 1], first), Stmt::Barrier, b.loops(&[0, 1], second)]
            },
            [false, false, true, true],
        ),
        (
            "an output written by an earlier phase, then from the operand",
            |b| {
                let (x, y) = (b.load(0, [0, 1]), b.load(1, [0, 1]));
                let (first, second) = (vec![b.store(2, [0, 1], y)], vec![b.store(2, [0, 1], x)]);
                vec![b.loops(&[0, 1], first), Stmt::Barrier, b.loops(&[0, 1], second)]
            },
            [false, false, true, false],
        ),
        (
            "an operand packed into scratch, then used beside the store",
            |b| {
                let (x, packed) = (b.load(0, [0, 1]), b.load(4, [0, 1]));
                let (first, second) = (vec![b.store(4, [0, 1], x)], vec![b.store(2, [0, 1], packed)]);
                vec![b.loops(&[0, 1], first), Stmt::Barrier, b.loops(&[0, 1], second)]
            },
            [false, false, true, true],
        ),
        (
            "an element written in every turn of a loop that it does not move with",
            |b| {
                let (x, y) = (b.load(0, [0, 1]), b.load(1, [2, 1]));
                let value = b.sum(x, y);
                let stores = vec![b.store(2, [0, 1], value)];
                vec![b.loops(&[2, 0, 1], stores)]
            },
            [false, false, false, false],
        ),
        (
            "a read beside the store but not in it",
            |b| {
                let x = b.load(0, [0, 1]);
                let local = b.nest.exprs.local(LocalId(0), DType::F32);
                let body = vec![
                    Stmt::Set {
                        local: LocalId(0),
                        value: x,
                    },
                    b.store(2, [0, 1], local),
                ];
                vec![b.loops(&[0, 1], body)]
            },
            [false, false, true, true],
        ),
        (
            "an operand of a contraction",
            |b| {
                let start = b.nest.exprs.int(0);
                let operand = |buffer, along| Operand {
                    buffer: BufferId(buffer),
                    start,
                    across: 1,
                    lines: None,
                    pieces: None,
                    along,
                };
                let contract = Contract {
                    dtype: DType::F32,
                    rows: 1,
                    columns: 16,
                    k: vec![N],
                    a: operand(0, vec![1]),
                    b: operand(0, vec![1]),
                    c: operand(4, Vec::new()),
                    accumulate: false,
                    ahead: 0,
                };
                let (sum, y) = (b.load(4, [0, 1]), b.load(1, [0, 1]));
                let value = b.sum(sum, y);
                let stores = vec![b.store(2, [0, 1], value)];
                vec![Stmt::Contract(contract), b.loops(&[0, 1], stores)]
            },
            [false, false, true, false],
        ),
    ];

    #[test]
    fn an_output_lies_over_an_operand_only_where_each_element_is_read_just_before() {
        for (name, make, expected) in CASES {
            let mut build = Build::new();
            build.nest.body = make(&mut build);
            let found = [(0, 2), (0, 3), (1, 2), (1, 3)].map(|(input, output)| in_place(&build.nest, input, output));
            // An operand that is not read at all may be written over by anything.
            assert_eq!(found, *expected, "{name}");
        }
    }

    #[test]
    fn types_must_agree() {
        let mut build = Build::new();
        let row = build.nest.exprs.axis(AxisId(0));
        build.nest.buffers[0].ty = Type::new(DType::F32, [N]);
        let x = build.nest.exprs.load(BufferId(0), DType::F32, vec![row], false);
        let stores = vec![build.store(2, [0, 1], x)];
        build.nest.body = vec![build.loops(&[0, 1], stores)];
        assert!(
            !in_place(&build.nest, 0, 2),
            "a broadcast operand is smaller than the result"
        );
    }
}
