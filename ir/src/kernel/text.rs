//! Kernels and nests as text, for dumps and golden tests.
//!
//! An expression that a statement uses more than once stands before it as `let t0 = …`, so that the text is as long as the DAG, not as
//! the tree. Index arithmetic is printed in place.

use std::collections::HashMap;
use std::fmt::{self, Display, Write};

use super::{
    Axis, AxisId, Bind, Buffer, Expr, ExprId, Exprs, Kernel, Lines, Local, Nest, Operand, Prim, Role, Stmt, Store,
    Strides, Work,
};
use crate::dtype::{DType, Scalar};

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new(&self.axes, &self.buffers, &[], &self.exprs);
        text.line("kernel {");
        text.depth += 1;
        text.buffers();
        match &self.work {
            Work::Stores(stores) => stores.iter().for_each(|store| text.store(store, "", "")),
            Work::Prefix { store, with, exclusive } => {
                let kind = if *exclusive { "exclusive " } else { "" };
                text.store(store, &format!("{kind}prefix {} of ", with.name()), "");
            }
            Work::Sort { store, descending } => {
                let order = if *descending { "descending" } else { "ascending" };
                text.store(store, &format!("{order} order of "), "");
            }
            Work::Scatter {
                initial,
                updates,
                index,
                axis,
                with,
                value,
            } => {
                text.store(initial, "", "");
                let lets: Vec<ExprId> = index.iter().copied().chain([*value]).collect();
                text.lets(&lets);
                let loops = text.loops(updates.iter().copied());
                let place = text.element(initial.buffer.at(), index);
                let with = with.map_or("replace", |with| with.name());
                let value = text.expr(*value);
                text.line(&format!(
                    "then for {loops}: {place} {with}= {value} (axis {axis} is data)"
                ));
            }
        }
        text.depth -= 1;
        text.line("}");
        f.write_str(&text.out)
    }
}

impl Display for Nest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new(&self.axes, &self.buffers, &self.locals, &self.exprs);
        text.line(&format!("nest {} {{", self.name));
        text.depth += 1;
        text.buffers();
        for local in &self.locals {
            text.line(&format!("local {}: {}", local.name, local.dtype));
        }
        text.block(&self.body);
        text.depth -= 1;
        text.line("}");
        f.write_str(&text.out)
    }
}

/// The text of a kernel or nest so far.
struct Text<'a> {
    axes: &'a [Axis],
    buffers: &'a [Buffer],
    locals: &'a [Local],
    exprs: &'a Exprs,
    /// What has a name in the present statement.
    names: HashMap<ExprId, String>,
    /// Names given so far, so that each is given once.
    named: usize,
    depth: usize,
    out: String,
}

impl<'a> Text<'a> {
    fn new(axes: &'a [Axis], buffers: &'a [Buffer], locals: &'a [Local], exprs: &'a Exprs) -> Text<'a> {
        Text {
            axes,
            buffers,
            locals,
            exprs,
            names: HashMap::new(),
            named: 0,
            depth: 0,
            out: String::new(),
        }
    }

    fn line(&mut self, line: &str) {
        let depth = self.depth;
        writeln!(self.out, "{:1$}{line}", "", 2 * depth).expect("a string takes all");
    }

    fn buffers(&mut self) {
        for buffer in self.buffers {
            let role = match buffer.role {
                Role::Input => "in",
                Role::Output => "out",
                Role::WorkerScratch => "worker scratch",
                Role::SharedScratch => "shared scratch",
            };
            self.line(&format!("{role} {}: {}", buffer.name, buffer.ty));
        }
    }

    fn store(&mut self, store: &Store, before: &str, after: &str) {
        let roots: Vec<ExprId> = store.index.iter().copied().chain([store.value]).collect();
        self.lets(&roots);
        let place = self.element(store.buffer.at(), &store.index);
        let value = self.expr(store.value);
        let loops = self.loops((0..store.over as u32).map(AxisId));
        let loops = if loops.is_empty() {
            loops
        } else {
            format!("for {loops}: ")
        };
        self.line(&format!("{loops}{place} = {before}{value}{after}"));
    }

    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Loop {
                axis,
                extent,
                bind,
                body,
            } => {
                self.lets(&[*extent]);
                let bind = match bind {
                    Bind::Serial => String::new(),
                    Bind::Unroll => " unroll".to_owned(),
                    Bind::Lanes => " lanes".to_owned(),
                    Bind::Workers => " workers".to_owned(),
                    Bind::Group(dimension) => format!(" group {dimension}"),
                    Bind::Item(dimension) => format!(" item {dimension}"),
                };
                let head = format!("for {} < {}{bind} {{", self.axes[axis.at()].name, self.expr(*extent));
                self.line(&head);
                self.nested(body);
                self.line("}");
            }
            Stmt::If {
                condition,
                then,
                otherwise,
            } => {
                self.lets(&[*condition]);
                let head = format!("if {} {{", self.expr(*condition));
                self.line(&head);
                self.nested(then);
                if !otherwise.is_empty() {
                    self.line("} else {");
                    self.nested(otherwise);
                }
                self.line("}");
            }
            Stmt::Set { local, value } => {
                self.lets(&[*value]);
                let line = format!("{} = {}", self.locals[local.at()].name, self.expr(*value));
                self.line(&line);
            }
            Stmt::Accumulate { local, with, value } => {
                self.lets(&[*value]);
                let line = format!(
                    "{} {}= {}",
                    self.locals[local.at()].name,
                    with.name(),
                    self.expr(*value)
                );
                self.line(&line);
            }
            Stmt::Store { buffer, index, value } => {
                let roots: Vec<ExprId> = index.iter().copied().chain([*value]).collect();
                self.lets(&roots);
                let line = format!("{} = {}", self.element(buffer.at(), index), self.expr(*value));
                self.line(&line);
            }
            Stmt::Prefetch { buffer, index } => {
                self.lets(index);
                let line = format!("prefetch {}", self.element(buffer.at(), index));
                self.line(&line);
            }
            Stmt::Contract(contract) => {
                let [a, b, c] = [&contract.a, &contract.b, &contract.c];
                self.lets(&[a.start, b.start, c.start]);
                let sign = if contract.accumulate { "+=" } else { "=" };
                let k = times(&contract.k);
                let (rows, columns) = (contract.rows, contract.columns);
                let [a, b, c] = [a, b, c].map(|operand| self.operand(operand));
                let dtype = contract.dtype;
                let ahead = match contract.ahead {
                    0 => String::new(),
                    elements => format!(" fetched {elements} ahead"),
                };
                self.line(&format!(
                    "contract {dtype} {rows}x{columns} over {k}: {c} {sign} {a} * {b}{ahead}"
                ));
            }
            Stmt::Product(product) => {
                let [a, b, c] = [&product.a, &product.b, &product.c]
                    .map(|side| format!("{} {}", self.buffers[side.buffer.at()].name, place(&side.place)));
                let (columns, depth) = (times(&product.columns), times(&product.depth));
                let limits = product.limits.iter();
                let limits: String = limits
                    .map(|limit| format!(" where {} is below {}", place(&limit.place), limit.extent))
                    .collect();
                self.line(&format!(
                    "product {} of {}x({columns}) over ({depth}), {} rows at once: {c} = {a} * {b}{limits}",
                    product.batch, product.rows, product.tile_rows
                ));
            }
            Stmt::Barrier => self.line("barrier"),
        }
    }

    fn nested(&mut self, body: &[Stmt]) {
        self.depth += 1;
        self.block(body);
        self.depth -= 1;
    }

    fn operand(&self, operand: &Operand) -> String {
        let along: Vec<String> = operand.along.iter().map(usize::to_string).collect();
        let (start, across) = (self.expr(operand.start), operand.across);
        let name = &self.buffers[operand.buffer.at()].name;
        let lines = operand.lines.map_or_else(String::new, |Lines { length, pitch }| {
            format!(" in lines of {length} every {pitch}")
        });
        format!("{name}@{start} (across {across}{lines}, along {})", along.join(" "))
    }

    fn loops(&self, axes: impl Iterator<Item = AxisId>) -> String {
        let loops = axes.map(|axis| {
            let axis = &self.axes[axis.at()];
            format!("{} < {}", axis.name, axis.extent)
        });
        loops.collect::<Vec<_>>().join(", ")
    }

    fn element(&self, buffer: usize, index: &[ExprId]) -> String {
        let index: Vec<String> = index.iter().map(|&place| self.expr(place)).collect();
        format!("{}[{}]", self.buffers[buffer].name, index.join(", "))
    }

    /// Names what these expressions use more than once, a line each.
    fn lets(&mut self, roots: &[ExprId]) {
        self.names.clear();
        let mut uses: HashMap<ExprId, usize> = HashMap::new();
        let mut open = roots.to_vec();
        while let Some(id) = open.pop() {
            let count = uses.entry(id).or_default();
            *count += 1;
            if *count == 1 {
                open.extend(self.exprs.operands(id));
            }
        }
        let is_named = |id: &ExprId| match self.exprs.get(*id) {
            Expr::Const(..) | Expr::Axis(_) | Expr::Local(..) | Expr::Load { .. } => false,
            Expr::Prim(..) => super::index::affine(self.exprs, *id).is_none(),
            Expr::Fold { .. } => true,
        };
        let mut shared: Vec<ExprId> = uses
            .iter()
            .filter(|&(_, &count)| count > 1)
            .map(|(&id, _)| id)
            .collect();
        shared.retain(is_named);
        shared.sort_unstable();
        for id in shared {
            let name = format!("t{}", self.named);
            self.named += 1;
            let line = format!("let {name} = {}", self.expr(id));
            self.line(&line);
            self.names.insert(id, name);
        }
    }

    fn expr(&self, id: ExprId) -> String {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        match self.exprs.get(id) {
            Expr::Const(dtype, bits) => constant(*dtype, *bits),
            Expr::Axis(axis) => self.axes[axis.at()].name.clone(),
            Expr::Local(local, _) => self.locals[local.at()].name.clone(),
            Expr::Load { buffer, index, guarded } => {
                let guard = if *guarded { "?" } else { "" };
                format!("{}{guard}", self.element(buffer.at(), index))
            }
            Expr::Fold { with, over, value } => {
                format!(
                    "{}({}: {})",
                    with.name(),
                    self.loops(over.iter().copied()),
                    self.expr(*value)
                )
            }
            Expr::Prim(prim, dtype, args) => {
                let args: Vec<String> = args.iter().map(|&arg| self.factor(*prim, arg)).collect();
                match (sign(*prim), args.as_slice()) {
                    (Some(sign), [a, b]) => format!("{a} {sign} {b}"),
                    _ => {
                        let name = match prim {
                            Prim::Cast | Prim::Bitcast => format!("{} {dtype} ", prim.name()),
                            _ => prim.name().to_owned(),
                        };
                        format!("{name}({})", args.join(", "))
                    }
                }
            }
        }
    }

    /// An operand: in parentheses if it is spelled with a sign, and so is what uses it.
    fn factor(&self, user: Prim, id: ExprId) -> String {
        let text = self.expr(id);
        let is_compound = match self.exprs.get(id) {
            Expr::Prim(prim, ..) => sign(*prim).is_some() && !self.names.contains_key(&id),
            _ => false,
        };
        if is_compound && sign(user).is_some() {
            format!("({text})")
        } else {
            text
        }
    }
}

fn times(extents: &[usize]) -> String {
    let extents: Vec<String> = extents.iter().map(usize::to_string).collect();
    extents.join("x")
}

/// Start, and strides along the batch, the first and the second axes.
fn place(strides: &Strides) -> String {
    let along = |strides: &[i64]| strides.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
    let Strides {
        start,
        batch,
        first,
        second,
    } = strides;
    format!("(from {start} by {batch}, {}, {})", along(first), along(second))
}

fn sign(prim: Prim) -> Option<&'static str> {
    Some(match prim {
        Prim::Add => "+",
        Prim::Sub => "-",
        Prim::Mul => "*",
        Prim::Div => "/",
        Prim::Rem => "%",
        Prim::Eq => "==",
        Prim::Lt => "<",
        Prim::Le => "<=",
        Prim::And => "&",
        Prim::Or => "|",
        Prim::Xor => "^",
        Prim::Shl => "<<",
        Prim::Shr => ">>",
        _ => return None,
    })
}

/// Indices are plain numbers; what else is not `f32` says its type.
fn constant(dtype: DType, bits: u64) -> String {
    match Scalar::from_bits(bits, dtype) {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) if dtype == DType::I64 => value.to_string(),
        Scalar::Int(value) => format!("{value}{dtype}"),
        Scalar::Float(value) if dtype == DType::F32 => format!("{:?}", value as f32),
        Scalar::Float(value) => format!("{value:?}{dtype}"),
    }
}
