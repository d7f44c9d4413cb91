//! Kernels within the text of a graph, as [`kernel::text`](crate::kernel::text) writes them.
//!
//! ```text
//! kernel    = "kernel" "{" (buffer | axes | let | store | update)* "}"
//! axes      = ("parallel" | "updates" | "folded") (name "<" number),*
//! store     = element "=" (order "of")? expr
//! order     = "exclusive"? "prefix" combine | ("ascending" | "descending") "order"
//! update    = "update" "along" number ":" element combine? "=" expr
//! ```
//!
//! The rest is as in [`super::expr`].

use super::expr::Draft;
use super::{Kind, Parsed, Parser, Token, show};
use crate::kernel::{AxisId, Combine, Kernel, Role, Store, Work};

impl<'s> Parser<'s> {
    /// A kernel and where its statements are, from after the keyword.
    pub(super) fn kernel(&mut self) -> Parsed<(Kernel, Vec<Token<'s>>)> {
        let mut draft = Draft::default();
        let mut kinds = Vec::new();
        let mut work = None;
        self.expect("{")?;
        loop {
            self.skip_newlines();
            let first = self.peek();
            if first.text == "}" {
                break;
            }
            if self.is_element() {
                draft.stmts.push(first);
                work = Some(self.store(&mut draft, work)?);
            } else {
                self.at += 1;
                match (first.kind, first.text) {
                    (Kind::Word, "in") => self.buffer(&mut draft, Role::Input)?,
                    (Kind::Word, "out") => self.buffer(&mut draft, Role::Output)?,
                    (Kind::Word, kind @ ("parallel" | "updates" | "folded")) => {
                        self.kernel_axes(&mut draft)?;
                        kinds.resize(draft.axes.len(), kind);
                    }
                    (Kind::Word, "let") => self.let_value(&mut draft, first)?,
                    (Kind::Word, "update") => {
                        draft.stmts.push(first);
                        let updates = (0..).zip(&kinds).filter(|(_, kind)| **kind == "updates");
                        let updates = updates.map(|(axis, _)| AxisId(axis)).collect();
                        work = Some(self.update(&mut draft, work, updates)?);
                    }
                    _ => {
                        let message = format!("expected a statement of a kernel, found {}", show(first));
                        return Err(self.wrong_at(first, message));
                    }
                }
            }
            self.statement_end()?;
        }
        let end = self.peek();
        self.expect("}")?;
        let parallel = kinds.iter().take_while(|kind| **kind == "parallel").count();
        if kinds[parallel..].contains(&"parallel") {
            return Err(self.wrong_at(end, "the parallel axes of a kernel stand before all others"));
        }
        let work = work.ok_or_else(|| self.wrong_at(end, "a kernel stores something"))?;
        let Draft {
            axes,
            buffers,
            exprs,
            stmts,
            ..
        } = draft;
        let kernel = Kernel {
            axes,
            parallel,
            buffers,
            exprs,
            work,
        };
        Ok((kernel.in_order(), stmts))
    }

    fn kernel_axes(&mut self, draft: &mut Draft<'s>) -> Parsed<()> {
        loop {
            let place = self.peek();
            let name = self.word("the name of an axis")?;
            self.expect("<")?;
            let extent = self.size()?;
            self.axis(draft, place, name, extent)?;
            if !self.take(",") {
                return Ok(());
            }
        }
    }

    /// A store beside those before it.
    fn store(&mut self, draft: &mut Draft<'s>, before: Option<Work>) -> Parsed<Work> {
        let place = self.peek();
        let (buffer, index) = self.place(draft)?;
        self.expect("=")?;
        let order = self.order()?;
        let value = self.expr(draft)?;
        let store = Store {
            buffer,
            over: index.len(),
            index,
            value,
        };
        match (before, order) {
            (None, None) => Ok(Work::Stores(vec![store])),
            (Some(Work::Stores(mut stores)), None) => {
                stores.push(store);
                Ok(Work::Stores(stores))
            }
            (None, Some(Order::Prefix { with, exclusive })) => {
                self.combines(place, with, draft.exprs.dtype(value))?;
                Ok(Work::Prefix { store, with, exclusive })
            }
            (None, Some(Order::Sort { descending })) => Ok(Work::Sort { store, descending }),
            _ => Err(self.wrong_at(place, ALONE)),
        }
    }

    /// How elements depend on those before them, up to the value of one.
    fn order(&mut self) -> Parsed<Option<Order>> {
        let [first, second] = [self.peek(), self.peek_after(1)];
        // A value may have such a name, and then no word follows.
        let word = match second.kind {
            Kind::Word => first.text,
            _ => return Ok(None),
        };
        let order = match word {
            "ascending" | "descending" => {
                self.at += 1;
                self.expect("order")?;
                Order::Sort {
                    descending: word == "descending",
                }
            }
            "exclusive" | "prefix" => {
                self.at += usize::from(word == "exclusive");
                self.expect("prefix")?;
                Order::Prefix {
                    with: self.combine()?,
                    exclusive: word == "exclusive",
                }
            }
            _ => return Ok(None),
        };
        self.expect("of")?;
        Ok(Some(order))
    }

    /// An update of what is stored, from after the keyword.
    fn update(&mut self, draft: &mut Draft<'s>, before: Option<Work>, updates: Vec<AxisId>) -> Parsed<Work> {
        self.expect("along")?;
        let axis = self.size()?;
        self.expect(":")?;
        let place = self.peek();
        let (buffer, index) = self.place(draft)?;
        let with = self.combine_into(draft.buffers[buffer.at()].ty.dtype)?;
        let value = self.expr(draft)?;
        let Some(Work::Stores(mut stores)) = before else {
            return Err(self.wrong_at(place, ALONE));
        };
        match (stores.pop(), stores.is_empty()) {
            (Some(initial), true) if initial.buffer == buffer => Ok(Work::Scatter {
                initial,
                updates,
                index,
                axis,
                with,
                value,
            }),
            _ => Err(self.wrong_at(place, ALONE)),
        }
    }
}

/// How elements of a result depend on those before them.
enum Order {
    Prefix { with: Combine, exclusive: bool },
    Sort { descending: bool },
}

/// What else there can be beside a store.
const ALONE: &str = "a kernel is stores, or one prefix, or one order, or one store and an update of what it stores";
