//! Kernels and nests as text, for dumps and golden tests; the text of a graph may hold them, and then they are read again.
//!
//! An expression that a statement of a nest, or a whole kernel, uses more than once stands before it as `let t0 = …`, so that the text is as long as
//! the DAG, not as the tree. Index arithmetic is printed in place.

use std::collections::HashMap;
use std::fmt::{self, Display, Write};

use super::{
    Axis, AxisId, Bind, Buffer, Combine, Expr, ExprId, Exprs, Kernel, Lines, Local, Nest, Operand, Prim, Role, Stmt,
    Store, Strides, Work,
};
use crate::dtype::DType;
use crate::layout::Layout;
use crate::target::TargetKind;
use crate::tensor::Tensor;
use crate::text::{Name, literal_text};

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new(&self.axes, &self.buffers, &[], &self.exprs);
        text.line("kernel {");
        text.depth += 1;
        text.buffers(&[]);
        text.axes(|axis| match &self.work {
            _ if axis.at() < self.parallel => "parallel",
            Work::Scatter { updates, .. } if updates.contains(&axis) => "updates",
            _ => "folded",
        });
        text.lets(&self.work.roots());
        match &self.work {
            Work::Stores(stores) => stores.iter().for_each(|store| text.store(store, "")),
            Work::Prefix { store, with, exclusive } => {
                let kind = if *exclusive { "exclusive " } else { "" };
                text.store(store, &format!("{kind}prefix {} of ", with.name()));
            }
            Work::Sort { store, descending } => {
                let order = if *descending { "descending" } else { "ascending" };
                text.store(store, &format!("{order} order of "));
            }
            Work::Scatter {
                initial,
                index,
                axis,
                with,
                value,
                ..
            } => {
                text.store(initial, "");
                let place = text.element(initial.buffer.at(), index);
                let with = with.map_or("", Combine::name);
                let value = text.expr(*value);
                text.line(&format!("update along {axis}: {place} {with}= {value}"));
            }
        }
        text.depth -= 1;
        text.line("}");
        f.write_str(&text.out)
    }
}

impl Nest {
    /// Whether two nests are the same code, whatever their names. What no statement uses is no part of them.
    pub fn is_same(&self, other: &Nest) -> bool {
        self.kind == other.kind && self.body_text() == other.body_text()
    }

    /// The first line of a statement, counted from 0 in the order in which they are read.
    pub fn line(&self, stmt: usize) -> Option<String> {
        let text = self.body();
        let mut lines = text.out[*text.stmts.get(stmt)?..].lines().map(str::trim);
        // Names of what it uses stand before it.
        lines.find(|line| !line.starts_with("let ")).map(str::to_owned)
    }

    fn body_text(&self) -> String {
        self.body().out
    }

    fn body(&self) -> Text<'_> {
        let mut text = Text::new(&self.axes, &self.buffers, &self.locals, &self.exprs);
        text.depth += 1;
        text.buffers(&self.layouts);
        for local in &self.locals {
            text.line(&format!("local {}: {}", local.name, local.dtype));
        }
        text.block(&self.body);
        text
    }
}

impl PartialEq for Nest {
    fn eq(&self, other: &Nest) -> bool {
        self.name == other.name && self.is_same(other)
    }
}

impl Eq for Nest {}

impl Display for Nest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = match self.kind {
            TargetKind::Cpu => String::new(),
            kind => format!(" on {kind}"),
        };
        writeln!(f, "nest {}{on} {{\n{}}}", Name(&self.name), self.body_text())
    }
}

/// How deep a printed expression is at most: what reads it again goes down as deep.
const MOST_DEPTH: usize = 48;

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
    /// Where each statement begins.
    stmts: Vec<usize>,
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
            stmts: Vec::new(),
            out: String::new(),
        }
    }

    fn line(&mut self, line: &str) {
        let depth = self.depth;
        writeln!(self.out, "{:1$}{line}", "", 2 * depth).expect("a string takes all");
    }

    /// The buffers, of which these lie so; all others are dense.
    fn buffers(&mut self, layouts: &[Layout]) {
        for (at, buffer) in self.buffers.iter().enumerate() {
            let role = match buffer.role {
                Role::Input => "in",
                Role::Output => "out",
                Role::WorkerScratch => "worker scratch",
                Role::SharedScratch => "shared scratch",
                Role::GroupScratch => "group scratch",
            };
            let lying = match layouts.get(at) {
                Some(blocked @ Layout::Digits(_)) => format!(" as {blocked}"),
                Some(Layout::Dense) | None => String::new(),
            };
            self.line(&format!("{role} {}: {}{lying}", buffer_name(buffer), buffer.ty));
        }
    }

    /// The axes, of one kind a line.
    fn axes(&mut self, kind: impl Fn(AxisId) -> &'static str) {
        let axes: Vec<AxisId> = (0..self.axes.len() as u32).map(AxisId).collect();
        for alike in axes.chunk_by(|&a, &b| kind(a) == kind(b)) {
            let each = alike.iter().map(|axis| &self.axes[axis.at()]);
            let each: Vec<String> = each.map(|Axis { name, extent }| format!("{name} < {extent}")).collect();
            self.line(&format!("{} {}", kind(alike[0]), each.join(", ")));
        }
    }

    /// A store, whose expressions have their names.
    fn store(&mut self, store: &Store, how: &str) {
        let place = self.element(store.buffer.at(), &store.index);
        let value = self.expr(store.value);
        self.line(&format!("{place} = {how}{value}"));
    }

    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmts.push(self.out.len());
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
                    Bind::Group => " group".to_owned(),
                    Bind::Item(dimension) => format!(" item {dimension}"),
                };
                let Axis { name, extent: most } = &self.axes[axis.at()];
                let of = match self.exprs.as_int(*extent) == Some(*most as i64) {
                    true => String::new(),
                    false => format!(" of {most}"),
                };
                let head = format!("for {name} < {}{of}{bind} {{", self.expr(*extent));
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
                let k = list(&contract.k);
                let (rows, columns) = (contract.rows, contract.columns);
                let [a, b, c] = [a, b, c].map(|operand| self.operand(operand));
                let dtype = contract.dtype;
                let ahead = match contract.ahead {
                    0 => String::new(),
                    elements => format!(" fetched {elements} ahead"),
                };
                self.line(&format!(
                    "contract {dtype} {rows} by {columns} over {k}: {c} {sign} {a} * {b}{ahead}"
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
        let along = list(&operand.along);
        let (start, across) = (self.expr(operand.start), operand.across);
        let name = buffer_name(&self.buffers[operand.buffer.at()]);
        let lines = operand.lines.map_or_else(String::new, |Lines { length, pitch }| {
            format!(" in lines of {length} every {pitch}")
        });
        let pieces = operand
            .pieces
            .map_or_else(String::new, |stride| format!(" in pieces every {stride}"));
        format!("{name} at {start} across {across}{lines}{pieces} along {along}")
    }

    fn element(&self, buffer: usize, index: &[ExprId]) -> String {
        let index: Vec<String> = index.iter().map(|&place| self.expr(place)).collect();
        format!("{}[{}]", buffer_name(&self.buffers[buffer]), index.join(", "))
    }

    /// Names what these expressions use more than once, and parts of what is deep, a line each, in the order in which it is read.
    fn lets(&mut self, roots: &[ExprId]) {
        self.names.clear();
        let order = self.exprs.in_order(roots);
        let mut uses: HashMap<ExprId, usize> = HashMap::new();
        let operands = order.iter().flat_map(|&id| self.exprs.operands(id));
        operands.chain(roots).for_each(|&id| *uses.entry(id).or_default() += 1);
        let mut depths: HashMap<ExprId, usize> = HashMap::new();
        for id in order {
            let operands = self.exprs.operands(id).iter().map(|operand| depths[operand]);
            let depth = 1 + operands.max().unwrap_or(0);
            let is_shared = uses[&id] > 1 && self.is_worth_a_name(id);
            if !is_shared && depth < MOST_DEPTH {
                depths.insert(id, depth);
                continue;
            }
            let name = self.new_name();
            let line = format!("let {name} = {}", self.expr(id));
            self.line(&line);
            self.names.insert(id, name);
            depths.insert(id, 0);
        }
    }

    /// Whether an expression is named where it is used more than once: neither leaves nor index arithmetic are.
    fn is_worth_a_name(&self, id: ExprId) -> bool {
        match self.exprs.get(id) {
            Expr::Const(..) | Expr::Axis(_) | Expr::Local(..) | Expr::Load { .. } => false,
            Expr::Prim(..) => super::index::affine(self.exprs, id).is_none(),
            Expr::Fold { .. } => true,
        }
    }

    /// A name that nothing else has.
    fn new_name(&mut self) -> String {
        loop {
            let name = format!("t{}", self.named);
            self.named += 1;
            let is_taken =
                self.axes.iter().any(|axis| axis.name == name) || self.locals.iter().any(|local| local.name == name);
            if !is_taken {
                return name;
            }
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
                let over: Vec<&str> = over.iter().map(|axis| &self.axes[axis.at()].name[..]).collect();
                format!("{}({} over {})", with.name(), self.expr(*value), over.join(", "))
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

/// A value by its label, or an input by its name.
fn buffer_name(buffer: &Buffer) -> String {
    let digits = buffer.name.strip_prefix('%').unwrap_or_default();
    match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => buffer.name.clone(),
        false => Name(&buffer.name).to_string(),
    }
}

fn list(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("[{}]", numbers.join(","))
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

/// As in graphs: `f32`, `i64` and `bool` are plain, what else there is says its type.
fn constant(dtype: DType, bits: u64) -> String {
    let bytes = bits.to_le_bytes()[..dtype.size_bytes()].to_vec();
    literal_text(&Tensor::from_bytes(dtype, [], bytes))
}
