//! Nests within the text of a graph, as [`kernel::text`](crate::kernel::text) writes them.
//!
//! ```text
//! nest      = "nest" name ("on" "vulkan")? "{" (buffer | local | stmt)* "}"
//! buffer    = ("in" | "out" | "worker" "scratch" | "shared" "scratch") name ":" type
//! local     = "local" name ":" dtype
//! stmt      = "let" name "=" expr | "for" name "<" expr ("of" number)? ("unroll" | "lanes" | "workers")? "{" stmt* "}"
//!           | "if" expr "{" stmt* "}" ("else" "{" stmt* "}")? | "prefetch" element | "barrier" | element "=" expr
//!           | name combine? "=" expr
//!           | "contract" dtype number "by" number "over" "[" number,* "]" ":" side ("=" | "+" "=") side "*" side ("fetched" number "ahead")?
//! side      = name "at" expr "across" number ("in" "lines" "of" number "every" number)? "along" "[" number,* "]"
//! expr      = factor (sign factor)?
//! factor    = "(" expr ")" | literal | element "?"? | name | prim dtype? "(" expr,* ")"
//! element   = name "[" expr,* "]"
//! ```

use std::collections::HashMap;

use super::{Kind, Parsed, Parser, Token, show};
use crate::dtype::DType;
use crate::kernel::{
    Axis, AxisId, Bind, Buffer, BufferId, Combine, Contract, Expr, ExprId, Exprs, Lines, Local, LocalId, Nest, Operand,
    Prim, Role, Stmt,
};
use crate::target::TargetKind;

/// How deep expressions and loops may nest.
const MAX_DEPTH: usize = 128;

/// The most terms that index arithmetic adds up, names written out: proofs of bounds take it apart.
const MAX_TERMS: u32 = 1024;

/// A nest being read.
struct Draft<'s> {
    nest: Nest,
    buffers: HashMap<String, BufferId>,
    locals: HashMap<&'s str, LocalId>,
    axes: HashMap<&'s str, AxisId>,
    lets: HashMap<&'s str, ExprId>,
    /// Of what is more than one term, how many it adds up.
    terms: HashMap<ExprId, u32>,
    /// Where each statement begins.
    stmts: Vec<Token<'s>>,
    depth: usize,
}

impl Draft<'_> {
    /// Whether a name stands for a number.
    fn knows(&self, name: &str) -> bool {
        self.locals.contains_key(name) || self.axes.contains_key(name) || self.lets.contains_key(name)
    }
}

impl<'s> Parser<'s> {
    /// A nest and where its statements are, from after the keyword.
    pub(super) fn nest(&mut self) -> Parsed<(Nest, Vec<Token<'s>>)> {
        let name = self.name()?;
        let kind = match self.peek().text {
            "on" => {
                self.at += 1;
                self.expect("vulkan")?;
                TargetKind::Vulkan
            }
            _ => TargetKind::Cpu,
        };
        let mut draft = Draft {
            nest: Nest {
                name,
                kind,
                axes: Vec::new(),
                buffers: Vec::new(),
                locals: Vec::new(),
                exprs: Exprs::default(),
                body: Vec::new(),
            },
            buffers: HashMap::new(),
            locals: HashMap::new(),
            axes: HashMap::new(),
            lets: HashMap::new(),
            terms: HashMap::new(),
            stmts: Vec::new(),
            depth: 0,
        };
        draft.nest.body = self.block(&mut draft)?;
        Ok((draft.nest, draft.stmts))
    }

    fn block(&mut self, draft: &mut Draft<'s>) -> Parsed<Vec<Stmt>> {
        self.expect("{")?;
        draft.depth += 1;
        if draft.depth > MAX_DEPTH {
            return Err(self.wrong(format!("loops nest deeper than {MAX_DEPTH}")));
        }
        let mut body = Vec::new();
        loop {
            self.skip_newlines();
            if self.take("}") {
                break;
            }
            // Those within it follow.
            draft.stmts.push(self.peek());
            match self.stmt(draft)? {
                Some(stmt) => body.push(stmt),
                None => drop(draft.stmts.pop()),
            }
            self.statement_end()?;
        }
        draft.depth -= 1;
        Ok(body)
    }

    /// A statement; nothing for what only gives a name.
    fn stmt(&mut self, draft: &mut Draft<'s>) -> Parsed<Option<Stmt>> {
        let first = self.peek();
        if self.peek_after(1).text == "[" && self.peek_after(1).kind == Kind::Mark {
            let (buffer, index) = self.place(draft)?;
            self.expect("=")?;
            let value = self.expr(draft)?;
            return Ok(Some(Stmt::Store { buffer, index, value }));
        }
        self.at += 1;
        let stmt = match (first.kind, first.text) {
            (Kind::Word, "in") => return self.buffer(draft, Role::Input),
            (Kind::Word, "out") => return self.buffer(draft, Role::Output),
            (Kind::Word, word @ ("worker" | "shared")) => {
                self.expect("scratch")?;
                let role = if word == "worker" {
                    Role::WorkerScratch
                } else {
                    Role::SharedScratch
                };
                return self.buffer(draft, role);
            }
            (Kind::Word, "local") => {
                let name = self.word("the name of a local")?;
                self.expect(":")?;
                let dtype = self.dtype()?;
                let id = LocalId(draft.nest.locals.len() as u32);
                draft.nest.locals.push(Local {
                    name: name.to_owned(),
                    dtype,
                });
                self.once(first, name, draft.knows(name))?;
                draft.locals.insert(name, id);
                return Ok(None);
            }
            (Kind::Word, "let") => {
                let name = self.word("a name")?;
                self.expect("=")?;
                let value = self.expr(draft)?;
                self.once(first, name, draft.knows(name))?;
                draft.lets.insert(name, value);
                return Ok(None);
            }
            (Kind::Word, "for") => self.for_loop(draft)?,
            (Kind::Word, "if") => {
                let condition = self.expr(draft)?;
                let then = self.block(draft)?;
                let otherwise = match self.peek().text {
                    "else" => {
                        self.at += 1;
                        self.block(draft)?
                    }
                    _ => Vec::new(),
                };
                Stmt::If {
                    condition,
                    then,
                    otherwise,
                }
            }
            (Kind::Word, "prefetch") => {
                let (buffer, index) = self.place(draft)?;
                Stmt::Prefetch { buffer, index }
            }
            (Kind::Word, "barrier") => Stmt::Barrier,
            (Kind::Word, "contract") => self.contract(draft)?,
            (Kind::Word, "product") => {
                return Err(self.wrong_at(
                    first,
                    "a `product` is a shader's, which the compiler chooses: leave the nest out",
                ));
            }
            (Kind::Word, name) if let Some(&local) = draft.locals.get(name) => {
                let dtype = draft.nest.locals[local.at()].dtype;
                let place = self.peek();
                let with = match self.take("=") {
                    true => None,
                    false => {
                        let name = self.word("`=` or how values combine")?;
                        let with = Combine::ALL.into_iter().find(|with| with.name() == name);
                        let with =
                            with.filter(|with| matches!(with, Combine::Any | Combine::All) == (dtype == DType::Bool));
                        let unknown = format!("values of {dtype} do not combine by `{name}`");
                        self.expect("=")?;
                        Some(with.ok_or_else(|| self.wrong_at(place, unknown))?)
                    }
                };
                let value = self.expr(draft)?;
                match with {
                    None => Stmt::Set { local, value },
                    Some(with) => Stmt::Accumulate { local, with, value },
                }
            }
            _ => return Err(self.wrong_at(first, format!("expected a statement of a nest, found {}", show(first)))),
        };
        Ok(Some(stmt))
    }

    fn once(&self, place: Token<'s>, name: &str, is_known: bool) -> Parsed<()> {
        match is_known {
            true => Err(self.wrong_at(place, format!("`{name}` is defined twice"))),
            false => Ok(()),
        }
    }

    fn buffer(&mut self, draft: &mut Draft<'s>, role: Role) -> Parsed<Option<Stmt>> {
        let place = self.peek();
        let name = self.buffer_name()?;
        self.expect(":")?;
        let ty = self.ty()?;
        let id = BufferId(draft.nest.buffers.len() as u32);
        draft.nest.buffers.push(Buffer {
            name: name.clone(),
            ty,
            role,
        });
        let before = draft.buffers.insert(name.clone(), id);
        self.once(place, &name, before.is_some()).map(|()| None)
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

    fn known_buffer(&mut self, draft: &Draft<'s>) -> Parsed<BufferId> {
        let place = self.peek();
        let name = self.buffer_name()?;
        let known = draft.buffers.get(&name).copied();
        known.ok_or_else(|| self.wrong_at(place, format!("the nest has no buffer `{name}`")))
    }

    fn for_loop(&mut self, draft: &mut Draft<'s>) -> Parsed<Stmt> {
        let place = self.peek();
        let name = self.word("the name of an axis")?;
        self.expect("<")?;
        let extent = self.expr(draft)?;
        let most = match self.peek().text {
            "of" => {
                self.at += 1;
                self.size()?
            }
            _ => {
                let known = draft
                    .nest
                    .exprs
                    .as_int(extent)
                    .and_then(|extent| usize::try_from(extent).ok());
                known.ok_or_else(|| self.wrong("expected `of` and the most that the extent can be"))?
            }
        };
        let axis = match draft.axes.get(name) {
            Some(&axis) if draft.nest.axes[axis.at()].extent == most => axis,
            Some(_) => return Err(self.wrong_at(place, format!("the axis `{name}` has another extent elsewhere"))),
            None => {
                self.once(place, name, draft.knows(name))?;
                let axis = draft.nest.exprs.add_axis(most);
                draft.nest.axes.push(Axis {
                    name: name.to_owned(),
                    extent: most,
                });
                draft.axes.insert(name, axis);
                axis
            }
        };
        let bind = match self.peek() {
            Token {
                kind: Kind::Word, text, ..
            } => {
                let bound = match text {
                    "unroll" => Bind::Unroll,
                    "lanes" => Bind::Lanes,
                    "workers" => Bind::Workers,
                    _ => {
                        return Err(self.wrong(format!(
                            "a loop is bound to `unroll`, `lanes` or `workers`, not `{text}`"
                        )));
                    }
                };
                self.at += 1;
                bound
            }
            _ => Bind::Serial,
        };
        let body = self.block(draft)?;
        Ok(Stmt::Loop {
            axis,
            extent,
            bind,
            body,
        })
    }

    fn contract(&mut self, draft: &mut Draft<'s>) -> Parsed<Stmt> {
        let dtype = self.dtype()?;
        let rows = self.size()?;
        self.expect("by")?;
        let columns = self.size()?;
        self.expect("over")?;
        let k = self.sizes()?;
        self.expect(":")?;
        let c = self.side(draft)?;
        let accumulate = self.take("+");
        self.expect("=")?;
        let a = self.side(draft)?;
        self.expect("*")?;
        let b = self.side(draft)?;
        let ahead = match self.peek().text {
            "fetched" => {
                self.at += 1;
                let ahead = self.size()?;
                self.expect("ahead")?;
                ahead
            }
            _ => 0,
        };
        Ok(Stmt::Contract(Contract {
            dtype,
            rows,
            columns,
            k,
            a,
            b,
            c,
            accumulate,
            ahead,
        }))
    }

    fn side(&mut self, draft: &mut Draft<'s>) -> Parsed<Operand> {
        let buffer = self.known_buffer(draft)?;
        self.expect("at")?;
        let start = self.expr(draft)?;
        self.expect("across")?;
        let across = self.size()?;
        let lines = match self.peek().text {
            "in" => {
                self.at += 1;
                self.expect("lines")?;
                self.expect("of")?;
                let length = self.size()?;
                self.expect("every")?;
                Some(Lines {
                    length,
                    pitch: self.size()?,
                })
            }
            _ => None,
        };
        self.expect("along")?;
        Ok(Operand {
            buffer,
            start,
            across,
            lines,
            along: self.sizes()?,
        })
    }

    fn dtype(&mut self) -> Parsed<DType> {
        let place = self.peek();
        let name = self.word("an element type")?;
        DType::from_name(name).ok_or_else(|| self.wrong_at(place, format!("there is no element type `{name}`")))
    }

    /// `[4,8]`
    fn sizes(&mut self) -> Parsed<Vec<usize>> {
        let place = self.peek();
        let numbers = self.numbers()?.into_iter().map(usize::try_from);
        numbers
            .collect::<Result<_, _>>()
            .map_err(|_| self.wrong_at(place, "a size is negative"))
    }

    // Expressions.

    fn expr(&mut self, draft: &mut Draft<'s>) -> Parsed<ExprId> {
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
        if second.kind == Kind::Mark && second.text == "[" {
            let (buffer, index) = self.place(draft)?;
            let guarded = self.take("?");
            let dtype = draft.nest.buffers[buffer.at()].ty.dtype;
            return Ok(draft.nest.exprs.load(buffer, dtype, index, guarded));
        }
        match (first.kind, first.text) {
            (Kind::Number, _) | (Kind::Word, "inf" | "nan" | "true" | "false") => {
                let literal = self.literal()?;
                let mut bits = [0; 8];
                bits[..literal.bytes().len()].copy_from_slice(literal.bytes());
                let dtype = literal.dtype();
                Ok(draft
                    .nest
                    .exprs
                    .intern(Expr::Const(dtype, u64::from_le_bytes(bits)), dtype))
            }
            (Kind::Word, name)
                if let Some(prim) = Prim::ALL.into_iter().find(|prim| prim.name() == name)
                    && !draft.knows(name) | (second.text == "(") =>
            {
                self.at += 1;
                let to = match prim {
                    Prim::Cast | Prim::Bitcast => Some(self.dtype()?),
                    _ => None,
                };
                let mut args = Vec::new();
                self.expect("(")?;
                self.list(")", |parser| {
                    args.push(parser.expr(draft)?);
                    Ok(())
                })?;
                self.prim(draft, first, prim, to, args)
            }
            (Kind::Word, name) => {
                self.at += 1;
                let Draft {
                    nest,
                    lets,
                    locals,
                    axes,
                    ..
                } = draft;
                if let Some(&value) = lets.get(name) {
                    Ok(value)
                } else if let Some(&local) = locals.get(name) {
                    Ok(nest.exprs.local(local, nest.locals[local.at()].dtype))
                } else if let Some(&axis) = axes.get(name) {
                    Ok(nest.exprs.axis(axis))
                } else {
                    Err(self.wrong_at(
                        first,
                        format!("the nest has no axis, local or value `{name}` before this"),
                    ))
                }
            }
            _ => Err(self.wrong_at(first, format!("expected an expression, found {}", show(first)))),
        }
    }

    fn place(&mut self, draft: &mut Draft<'s>) -> Parsed<(BufferId, Vec<ExprId>)> {
        let place = self.peek();
        let buffer = self.known_buffer(draft)?;
        let mut index = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            index.push(parser.expr(draft)?);
            Ok(())
        })?;
        let rank = draft.nest.buffers[buffer.at()].ty.rank();
        let is_index = index.iter().all(|&at| draft.nest.exprs.dtype(at) == DType::I64);
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
        let exprs = &mut draft.nest.exprs;
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
        let value = exprs.intern(Expr::Prim(prim, dtype, args), dtype);
        if is_sum {
            draft.terms.insert(value, terms);
        }
        Ok(value)
    }
}
