//! Nests within the text of a graph, as [`kernel::text`](crate::kernel::text) writes them.
//!
//! ```text
//! nest      = "nest" name ("on" "vulkan")? "{" (buffer | local | stmt)* "}"
//! buffer    = as in [`super::expr`], of a value then ("as" layout)?
//! local     = "local" name ":" dtype
//! stmt      = let | "for" name "<" expr ("of" number)? ("unroll" | "lanes" | "workers" | "group" | "item" number)? "{" stmt* "}"
//!           | "if" expr "{" stmt* "}" ("else" "{" stmt* "}")? | "prefetch" element | "barrier" | element "=" expr
//!           | name combine? "=" expr
//!           | "contract" dtype number "by" number "over" "[" number,* "]" ":" side ("=" | "+" "=") side "*" side ("fetched" number "ahead")?
//! side      = name "at" expr "across" number ("in" "lines" "of" number "every" number)? "along" "[" number,* "]"
//! ```

use super::expr::{Draft, MAX_DEPTH, Number};
use super::{Kind, Parsed, Parser, Token, show};
use crate::kernel::{Bind, Contract, Lines, Local, LocalId, Nest, Operand, Role, Stmt};
use crate::layout::Layout;
use crate::target::TargetKind;

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
        let mut draft = Draft::default();
        let body = self.block(&mut draft)?;
        let Draft {
            axes,
            buffers,
            layouts,
            locals,
            exprs,
            stmts,
            ..
        } = draft;
        let nest = Nest {
            name,
            kind,
            axes,
            buffers,
            layouts,
            locals,
            exprs,
            body,
        };
        Ok((nest, stmts))
    }

    /// A buffer that is a value, and how that lies.
    fn value_buffer(&mut self, draft: &mut Draft<'s>, role: Role) -> Parsed<()> {
        self.buffer(draft, role)?;
        if self.peek().text == "as" {
            self.at += 1;
            self.expect("{")?;
            draft.layouts.resize(draft.buffers.len() - 1, Layout::Dense);
            draft.layouts.push(self.digits()?);
        }
        Ok(())
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
        if self.is_element() {
            let (buffer, index) = self.place(draft)?;
            self.expect("=")?;
            let value = self.expr(draft)?;
            return Ok(Some(Stmt::Store { buffer, index, value }));
        }
        self.at += 1;
        let stmt = match (first.kind, first.text) {
            (Kind::Word, "in") => return self.value_buffer(draft, Role::Input).map(|()| None),
            (Kind::Word, "out") => return self.value_buffer(draft, Role::Output).map(|()| None),
            (Kind::Word, word @ ("worker" | "shared" | "group")) => {
                self.expect("scratch")?;
                let role = match word {
                    "worker" => Role::WorkerScratch,
                    "shared" => Role::SharedScratch,
                    _ => Role::GroupScratch,
                };
                return self.buffer(draft, role).map(|()| None);
            }
            (Kind::Word, "local") => {
                let name = self.word("the name of a local")?;
                self.expect(":")?;
                let dtype = self.dtype()?;
                let id = LocalId(draft.locals.len() as u32);
                draft.locals.push(Local {
                    name: name.to_owned(),
                    dtype,
                });
                return self.call(draft, first, name, Number::Local(id)).map(|()| None);
            }
            (Kind::Word, "let") => return self.let_value(draft, first).map(|()| None),
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
            (Kind::Word, name) if let Some(Number::Local(local)) = draft.number(name) => {
                let with = self.combine_into(draft.locals[local.at()].dtype)?;
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
                let known = draft.exprs.as_int(extent);
                let known = known.and_then(|extent| usize::try_from(extent).ok());
                known.ok_or_else(|| self.wrong("expected `of` and the most that the extent can be"))?
            }
        };
        let axis = match draft.number(name) {
            Some(Number::Axis(axis)) if draft.axes[axis.at()].extent == most => axis,
            Some(Number::Axis(_)) => {
                return Err(self.wrong_at(place, format!("the axis `{name}` has another extent elsewhere")));
            }
            _ => self.axis(draft, place, name, most)?,
        };
        let bind = match self.peek() {
            Token {
                kind: Kind::Word, text, ..
            } => {
                let bound = match text {
                    "unroll" => Bind::Unroll,
                    "lanes" => Bind::Lanes,
                    "workers" => Bind::Workers,
                    "group" => Bind::Group,
                    "item" => {
                        self.at += 1;
                        match self.peek().text {
                            "0" => Bind::Item(0),
                            "1" => Bind::Item(1),
                            "2" => Bind::Item(2),
                            other => {
                                return Err(self.wrong(format!("expected the dimension 0, 1 or 2, found `{other}`")));
                            }
                        }
                    }
                    _ => {
                        return Err(self.wrong(format!(
                            "a loop is bound to `unroll`, `lanes`, `workers`, `group` or `item`, not `{text}`"
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
        let (mut lines, mut pieces) = (None, None);
        while self.peek().text == "in" {
            self.at += 1;
            if self.peek().text == "pieces" {
                self.at += 1;
                self.expect("every")?;
                pieces = Some(self.size()?);
                continue;
            }
            self.expect("lines")?;
            self.expect("of")?;
            let length = self.size()?;
            self.expect("every")?;
            lines = Some(Lines {
                length,
                pitch: self.size()?,
            });
        }
        self.expect("along")?;
        Ok(Operand {
            buffer,
            start,
            across,
            lines,
            pieces,
            along: self.sizes()?,
        })
    }

    /// `[4,8]`
    fn sizes(&mut self) -> Parsed<Vec<usize>> {
        let place = self.peek();
        let numbers = self.numbers()?.into_iter().map(usize::try_from);
        numbers
            .collect::<Result<_, _>>()
            .map_err(|_| self.wrong_at(place, "a size is negative"))
    }
}
