//! What the texts of kernels and nests share: buffers, and expressions over their elements.
//!
//! ```text
//! buffer    = ("in" | "out" | "worker" "scratch" | "shared" "scratch" | "group" "scratch") name ":" type
//! let       = "let" name "=" expr
//! expr      = factor (sign factor)?
//! factor    = "(" expr ")" | literal | element "?"? | name | prim dtype? "(" expr,* ")" | combine "(" expr "over" name,* ")"
//! element   = name "[" expr,* "]"
//! ```

use std::collections::HashMap;

use super::{Kind, Parsed, Parser, Token, show};
use crate::dtype::DType;
use crate::kernel::{Axis, AxisId, Buffer, BufferId, Combine, Expr, ExprId, Exprs, Local, LocalId, Prim, Role};
use crate::layout::Layout;
use crate::ops::fold::check_combines;

/// How deep expressions and loops may nest.
pub(super) const MAX_DEPTH: usize = 128;

/// The most terms that index arithmetic adds up, names written out: proofs of bounds take it apart.
const MAX_TERMS: u32 = 1024;

/// A kernel or nest being read.
#[derive(Default)]
pub(super) struct Draft<'s> {
    pub axes: Vec<Axis>,
    pub buffers: Vec<Buffer>,
    /// How buffers lie, up to the last that is not dense.
    pub layouts: Vec<Layout>,
    pub locals: Vec<Local>,
    pub exprs: Exprs,
    /// Where each statement begins.
    pub stmts: Vec<Token<'s>>,
    buffer_ids: HashMap<String, BufferId>,
    numbers: HashMap<&'s str, Number>,
    /// Of what is more than one term, how many it adds up.
    terms: HashMap<ExprId, u32>,
    /// How many loops and expressions are open.
    pub depth: usize,
}

/// What a name within a kernel or nest stands for.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Axis(AxisId),
    Local(LocalId),
    Let(ExprId),
}

impl<'s> Draft<'s> {
    /// What a name stands for, if it has been given.
    pub fn number(&self, name: &str) -> Option<Number> {
        self.numbers.get(name).copied()
    }
}

impl<'s> Parser<'s> {
    /// Gives a name its meaning.
    pub(super) fn call(&self, draft: &mut Draft<'s>, place: Token<'s>, name: &'s str, number: Number) -> Parsed<()> {
        match draft.numbers.insert(name, number) {
            Some(_) => Err(self.wrong_at(place, format!("`{name}` is defined twice"))),
            None => Ok(()),
        }
    }

    /// A new axis.
    pub(super) fn axis(&self, draft: &mut Draft<'s>, place: Token<'s>, name: &'s str, extent: usize) -> Parsed<AxisId> {
        let axis = draft.exprs.add_axis(extent);
        draft.axes.push(Axis {
            name: name.to_owned(),
            extent,
        });
        self.call(draft, place, name, Number::Axis(axis)).map(|()| axis)
    }

    /// A buffer, from after its role.
    pub(super) fn buffer(&mut self, draft: &mut Draft<'s>, role: Role) -> Parsed<()> {
        let place = self.peek();
        let name = self.buffer_name()?;
        self.expect(":")?;
        let ty = self.ty()?;
        let id = BufferId(draft.buffers.len() as u32);
        draft.buffers.push(Buffer {
            name: name.clone(),
            ty,
            role,
        });
        match draft.buffer_ids.insert(name, id) {
            Some(_) => Err(self.wrong_at(place, format!("{} is defined twice", show(place)))),
            None => Ok(()),
        }
    }

    /// A value's label, or a name.
    fn buffer_name(&mut self) -> Parsed<String> {
        match self.peek() {
            Token {
                kind: Kind::Label,
                text,
                ..
            } if !text.is_empty() => {
                self.at += 1;
                Ok(format!("%{text}"))
            }
            _ => self.name(),
        }
    }

    pub(super) fn known_buffer(&mut self, draft: &Draft<'s>) -> Parsed<BufferId> {
        let place = self.peek();
        let name = self.buffer_name()?;
        let known = draft.buffer_ids.get(&name).copied();
        known.ok_or_else(|| self.wrong_at(place, format!("there is no buffer `{name}` before this")))
    }

    /// A name for a value, from after the keyword.
    pub(super) fn let_value(&mut self, draft: &mut Draft<'s>, place: Token<'s>) -> Parsed<()> {
        let name = self.word("a name")?;
        self.expect("=")?;
        let value = self.expr(draft)?;
        self.call(draft, place, name, Number::Let(value))
    }

    /// `=`, and before it how values of a type combine, if they do.
    pub(super) fn combine_into(&mut self, dtype: DType) -> Parsed<Option<Combine>> {
        if self.take("=") {
            return Ok(None);
        }
        let place = self.peek();
        let with = self.combine()?;
        self.combines(place, with, dtype)?;
        self.expect("=").map(|()| Some(with))
    }

    /// How values combine.
    pub(super) fn combine(&mut self) -> Parsed<Combine> {
        let place = self.peek();
        self.word("how values combine")?;
        self.combine_of(place)
    }

    fn combine_of(&self, name: Token<'s>) -> Parsed<Combine> {
        let with = Combine::ALL.into_iter().find(|with| with.name() == name.text);
        with.ok_or_else(|| self.wrong_at(name, format!("values do not combine by {}", show(name))))
    }

    pub(super) fn combines(&self, place: Token<'s>, with: Combine, dtype: DType) -> Parsed<()> {
        check_combines(with, dtype).map_err(|message| self.wrong_at(place, format!("`{}` {message}", with.name())))
    }

    /// Whether an element of a buffer follows.
    pub(super) fn is_element(&self) -> bool {
        let after = self.peek_after(1);
        after.kind == Kind::Mark && after.text == "["
    }

    pub(super) fn dtype(&mut self) -> Parsed<DType> {
        let place = self.peek();
        let name = self.word("an element type")?;
        DType::from_name(name).ok_or_else(|| self.wrong_at(place, format!("there is no element type `{name}`")))
    }

    pub(super) fn expr(&mut self, draft: &mut Draft<'s>) -> Parsed<ExprId> {
        let place = self.peek();
        let first = self.factor(draft)?;
        let Some(prim) = self.sign() else { return Ok(first) };
        let second = self.factor(draft)?;
        let end = self.peek();
        if self.sign().is_some() {
            return Err(self.wrong_at(end, "put parentheses around what is computed first"));
        }
        self.prim(draft, place, prim, None, vec![first, second])
    }

    /// The primitive that is written with the marks that follow.
    fn sign(&mut self) -> Option<Prim> {
        let [first, second] = [self.peek(), self.peek_after(1)];
        let after = |mark: &str| second.start == first.start + 1 && second.text == mark && second.kind == Kind::Mark;
        let two = match first.text {
            "=" if after("=") => Some(Prim::Eq),
            "<" if after("=") => Some(Prim::Le),
            "<" if after("<") => Some(Prim::Shl),
            ">" if after(">") => Some(Prim::Shr),
            _ => None,
        };
        let one = match (first.kind, first.text) {
            (Kind::Mark, "+") if !after("=") => Some(Prim::Add),
            (Kind::Number, "-") => Some(Prim::Sub),
            (Kind::Mark, "*") => Some(Prim::Mul),
            (Kind::Mark, "/") => Some(Prim::Div),
            (Kind::Label, "") => Some(Prim::Rem),
            (Kind::Mark, "<") => Some(Prim::Lt),
            (Kind::Mark, "&") => Some(Prim::And),
            (Kind::Mark, "|") => Some(Prim::Or),
            (Kind::Mark, "^") => Some(Prim::Xor),
            _ => None,
        };
        self.at += if two.is_some() { 2 } else { usize::from(one.is_some()) };
        two.or(one)
    }

    fn factor(&mut self, draft: &mut Draft<'s>) -> Parsed<ExprId> {
        draft.depth += 1;
        if draft.depth > MAX_DEPTH {
            return Err(self.wrong(format!(
                "expressions nest deeper than {MAX_DEPTH}: name parts of it with `let`"
            )));
        }
        let value = self.factor_within(draft);
        draft.depth -= 1;
        value
    }

    fn factor_within(&mut self, draft: &mut Draft<'s>) -> Parsed<ExprId> {
        let [first, second] = [self.peek(), self.peek_after(1)];
        if self.take("(") {
            let value = self.expr(draft)?;
            self.expect(")")?;
            return Ok(value);
        }
        if self.is_element() {
            let (buffer, index) = self.place(draft)?;
            let guarded = self.take("?");
            let dtype = draft.buffers[buffer.at()].ty.dtype;
            return Ok(draft.exprs.load(buffer, dtype, index, guarded));
        }
        match (first.kind, first.text) {
            (Kind::Number, _) | (Kind::Word, "inf" | "nan" | "true" | "false") => {
                let literal = self.literal()?;
                let mut bits = [0; 8];
                bits[..literal.bytes().len()].copy_from_slice(literal.bytes());
                let dtype = literal.dtype();
                Ok(draft.exprs.intern(Expr::Const(dtype, u64::from_le_bytes(bits)), dtype))
            }
            (Kind::Word, name) if second.text == "(" || is_cast(name) && DType::from_name(second.text).is_some() => {
                self.function(draft)
            }
            (Kind::Word, name) => {
                self.at += 1;
                match draft.number(name) {
                    Some(Number::Let(value)) => Ok(value),
                    Some(Number::Local(local)) => Ok(draft.exprs.local(local, draft.locals[local.at()].dtype)),
                    Some(Number::Axis(axis)) => Ok(draft.exprs.axis(axis)),
                    None => Err(self.wrong_at(first, format!("there is no axis, local or value `{name}` before this"))),
                }
            }
            _ => Err(self.wrong_at(first, format!("expected an expression, found {}", show(first)))),
        }
    }

    /// A primitive, or a fold, of what stands between parentheses.
    fn function(&mut self, draft: &mut Draft<'s>) -> Parsed<ExprId> {
        let name = self.next();
        let to = match is_cast(name.text) {
            true => Some(self.dtype()?),
            false => None,
        };
        let (mut args, mut over) = (Vec::new(), Vec::new());
        self.expect("(")?;
        self.list(")", |parser| {
            args.push(parser.expr(draft)?);
            if parser.peek().text == "over" {
                over = parser.folded(draft)?;
            }
            Ok(())
        })?;
        if let ([value], [_, ..]) = (&args[..], &over[..]) {
            let with = self.combine_of(name)?;
            self.combines(name, with, draft.exprs.dtype(*value))?;
            return Ok(draft.exprs.fold(with, over, *value));
        }
        let prim = Prim::ALL.into_iter().find(|prim| prim.name() == name.text);
        match prim {
            Some(prim) if over.is_empty() => self.prim(draft, name, prim, to, args),
            _ if Combine::ALL.iter().any(|with| with.name() == name.text) => Err(self.wrong_at(
                name,
                format!("`{0}` folds one value over axes: `{0}(value over axis)`", name.text),
            )),
            _ => Err(self.wrong_at(name, format!("there is no function {}", show(name)))),
        }
    }

    /// The axes of a fold.
    fn folded(&mut self, draft: &Draft<'s>) -> Parsed<Vec<AxisId>> {
        self.expect("over")?;
        let mut over = Vec::new();
        loop {
            let place = self.peek();
            let name = self.word("the name of an axis")?;
            let Some(Number::Axis(axis)) = draft.number(name) else {
                return Err(self.wrong_at(place, format!("there is no axis `{name}` before this")));
            };
            over.push(axis);
            if !self.take(",") {
                return Ok(over);
            }
        }
    }

    /// An element of a buffer.
    pub(super) fn place(&mut self, draft: &mut Draft<'s>) -> Parsed<(BufferId, Vec<ExprId>)> {
        let place = self.peek();
        let buffer = self.known_buffer(draft)?;
        let mut index = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            index.push(parser.expr(draft)?);
            Ok(())
        })?;
        let rank = draft.buffers[buffer.at()].ty.rank();
        let is_index = index.iter().all(|&at| draft.exprs.dtype(at) == DType::I64);
        match index.len() == rank && is_index {
            true => Ok((buffer, index)),
            false => Err(self.wrong_at(
                place,
                format!("an element of this buffer has {rank} indices, each an i64"),
            )),
        }
    }

    /// A primitive of operands whose types it takes.
    fn prim(
        &mut self,
        draft: &mut Draft<'s>,
        place: Token<'s>,
        prim: Prim,
        to: Option<DType>,
        args: Vec<ExprId>,
    ) -> Parsed<ExprId> {
        let exprs = &mut draft.exprs;
        let dtypes: Vec<DType> = args.iter().map(|&arg| exprs.dtype(arg)).collect();
        let Some(dtype) = prim.infer(to, &dtypes) else {
            let found: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
            return Err(self.wrong_at(place, format!("`{}` does not take {}", prim.name(), found.join(", "))));
        };
        let is_sum = dtype == DType::I64 && matches!(prim, Prim::Add | Prim::Sub | Prim::Mul);
        let terms = |arg| draft.terms.get(arg).copied().unwrap_or(1);
        let terms = args.iter().map(terms).sum::<u32>();
        if is_sum && terms > MAX_TERMS {
            return Err(self.wrong_at(place, format!("an index adds up more than {MAX_TERMS} terms")));
        }
        let value = exprs.intern(Expr::Prim(prim, dtype, args.into()), dtype);
        if is_sum {
            draft.terms.insert(value, terms);
        }
        Ok(value)
    }
}

/// Whether a primitive says to what it converts.
fn is_cast(name: &str) -> bool {
    [Prim::Cast, Prim::Bitcast].iter().any(|prim| prim.name() == name)
}
