//! Plans after the entry that they are of, as [`plan`](crate::plan) writes them.
//!
//! ```text
//! plan     = "plan" name "{" arena port* value* step* "}"
//! arena    = "arena" number "bytes" "," number "for" "each" "worker"
//! port     = ("argument" | "result") number name ":" type
//! value    = ("state" name ":" type | "constant" constant) "at" number
//! step     = name "(" place,* ")" "of" label* | "copy" place "->" place | "count" "->" place ("from_end" number)? | "barrier"
//!          | "repeat" number block | "if" place block "else" block | "while" block place block
//! block    = "{" step* "}"
//! place    = base "+" number ":" number ("by" "[" number,* "]")?
//! base     = "argument" number | "result" number | "states" | "constants" | "arena" | "worker"
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use super::{Kind, MAX_DEPTH, MAX_PRODUCT, Parsed, Parser, Token, show};
use crate::error::Problem;
use crate::graph::NodeId;
use crate::plan::{Base, Given, KernelId, Place, Port, Step};

/// A plan being read.
#[derive(Default)]
struct Draft {
    plan: Given,
    kernels: HashMap<String, KernelId>,
    depth: usize,
}

impl<'s> Parser<'s> {
    /// A plan and the name of its entry, from after the keyword `plan`, which stands at `start`.
    pub(super) fn plan(&mut self, start: Token<'s>) -> Parsed<(String, Given)> {
        let name = self.name()?;
        let mut draft = Draft::default();
        draft.plan.spots.push(self.spot(start));
        self.expect("{")?;
        self.skip_newlines();
        self.expect("arena")?;
        draft.plan.shared_bytes = self.bytes()?;
        for word in ["bytes", ","] {
            self.expect(word)?;
        }
        draft.plan.worker_bytes = self.bytes()?;
        for word in ["for", "each", "worker"] {
            self.expect(word)?;
        }
        self.statement_end()?;
        self.skip_newlines();
        while self.declaration(&mut draft.plan)? {
            self.statement_end()?;
            self.skip_newlines();
        }
        draft.plan.steps = self.steps(&mut draft)?;
        Ok((name, draft.plan))
    }

    /// What steps refer to; false if a step follows, or the end.
    fn declaration(&mut self, plan: &mut Given) -> Parsed<bool> {
        let first = self.peek();
        if first.kind != Kind::Word || self.peek_after(1).text == "(" {
            return Ok(false);
        }
        match first.text {
            "state" => {
                self.at += 1;
                let port = self.port()?;
                plan.states.push((port, self.at()?));
            }
            "constant" => {
                self.at += 1;
                let tensor = Arc::new(self.constant()?);
                plan.constants.push((tensor, self.at()?));
            }
            word => {
                let (ports, number) = match (numbered(word, "argument"), numbered(word, "result")) {
                    (Some(number), _) => (&mut plan.inputs, number),
                    (_, Some(number)) => (&mut plan.outputs, number),
                    _ => return Ok(false),
                };
                if number != ports.len() {
                    let message = format!(
                        "arguments and results are numbered from 0: this is number {}",
                        ports.len()
                    );
                    return Err(self.wrong(message));
                }
                self.at += 1;
                ports.push(self.port()?);
            }
        }
        Ok(true)
    }

    fn port(&mut self) -> Parsed<Port> {
        let name = self.name()?;
        self.expect(":")?;
        Ok(Port { name, ty: self.ty()? })
    }

    fn at(&mut self) -> Parsed<usize> {
        self.expect("at")?;
        self.bytes()
    }

    fn step_block(&mut self, draft: &mut Draft) -> Parsed<Vec<Step>> {
        self.expect("{")?;
        if draft.depth == MAX_DEPTH {
            return Err(self.wrong(format!("steps nest deeper than {MAX_DEPTH}")));
        }
        draft.depth += 1;
        let steps = self.steps(draft)?;
        draft.depth -= 1;
        Ok(steps)
    }

    /// Steps and the mark after them.
    fn steps(&mut self, draft: &mut Draft) -> Parsed<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            self.skip_newlines();
            if self.take("}") {
                return Ok(steps);
            }
            // Those within it follow.
            let spot = self.spot(self.peek());
            draft.plan.spots.push(spot);
            steps.push(self.step(draft)?);
            self.statement_end()?;
        }
    }

    fn step(&mut self, draft: &mut Draft) -> Parsed<Step> {
        let first = self.peek();
        if self.peek_after(1).text == "(" {
            return self.kernel_step(draft);
        }
        self.at += 1;
        Ok(match (first.kind, first.text) {
            (Kind::Word, "copy") => {
                let from = self.memory_place()?;
                self.arrow()?;
                Step::Copy {
                    from,
                    to: self.memory_place()?,
                }
            }
            (Kind::Word, "count") => {
                self.arrow()?;
                let to = self.memory_place()?;
                let is_back = self.peek().text == "from_end";
                self.at += usize::from(is_back);
                let from_end = is_back.then(|| self.bytes()).transpose()?;
                Step::Count { to, from_end }
            }
            (Kind::Word, "barrier") => Step::Barrier,
            (Kind::Word, "repeat") => Step::Repeat {
                times: self.bytes()?,
                body: self.step_block(draft)?,
            },
            (Kind::Word, "if") => {
                let condition = self.memory_place()?;
                let then = self.step_block(draft)?;
                self.expect("else")?;
                Step::Branch {
                    condition,
                    then,
                    otherwise: self.step_block(draft)?,
                }
            }
            (Kind::Word, "while") => Step::While {
                condition: self.step_block(draft)?,
                go_on: self.memory_place()?,
                body: self.step_block(draft)?,
            },
            _ => return Err(self.wrong_at(first, format!("expected a step of a plan, found {}", show(first)))),
        })
    }

    /// A kernel and where its buffers lie.
    fn kernel_step(&mut self, draft: &mut Draft) -> Parsed<Step> {
        let name = self.name()?;
        self.expect("(")?;
        let mut buffers = Vec::new();
        self.list(")", |parser| {
            buffers.push(parser.memory_place()?);
            Ok(())
        })?;
        self.expect("of")?;
        let mut nodes = Vec::new();
        while self.peek().kind == Kind::Label {
            let label = self.next();
            let id = label.text.parse();
            nodes.push(NodeId(
                id.map_err(|_| self.wrong_at(label, "expected the label of a node"))?,
            ));
        }
        let kernels = &mut draft.plan.kernels;
        let kernel = *draft.kernels.entry(name).or_insert_with_key(|name| {
            kernels.push(name.clone());
            KernelId(kernels.len() - 1)
        });
        Ok(Step::Kernel { kernel, buffers, nodes })
    }

    fn memory_place(&mut self) -> Parsed<Place> {
        let first = self.peek();
        let word = self.word("a place")?;
        let base = match (word, numbered(word, "argument"), numbered(word, "result")) {
            ("states", ..) => Base::States,
            ("constants", ..) => Base::Constants,
            ("arena", ..) => Base::Arena,
            ("worker", ..) => Base::Worker,
            (_, Some(number), _) => Base::Input(number),
            (_, _, Some(number)) => Base::Output(number),
            _ => {
                let message = format!(
                    "expected `arena`, `worker`, `states`, `constants`, an argument or a result, found {}",
                    show(first)
                );
                return Err(self.wrong_at(first, message));
            }
        };
        self.expect("+")?;
        let offset = self.bytes()?;
        self.expect(":")?;
        let mut place = Place::new(base, offset, self.bytes()?);
        if self.peek().text == "by" {
            self.at += 1;
            self.expect("[")?;
            self.list("]", |parser| {
                place.strides.push(parser.far()?);
                Ok(())
            })?;
        }
        Ok(place)
    }

    fn arrow(&mut self) -> Parsed<()> {
        let (line, head) = (self.peek(), self.peek_after(1));
        if line.text != "-" || head.text != ">" || head.start != line.start + 1 {
            return Err(self.wrong(format!("expected `->`, found {}", show(line))));
        }
        self.at += 2;
        Ok(())
    }

    /// A number of bytes or iterations.
    fn bytes(&mut self) -> Parsed<usize> {
        let place = self.peek();
        let number = self.far()?;
        usize::try_from(number).map_err(|_| self.wrong_at(place, format!("{number} is negative")))
    }

    /// A distance in bytes, so small that sums of a few do not overflow.
    fn far(&mut self) -> Parsed<isize> {
        let token = self.next();
        let number = token.text.parse::<isize>().ok().filter(|_| token.kind == Kind::Number);
        let number = number.filter(|number| number.unsigned_abs() as u64 <= MAX_PRODUCT);
        number.ok_or_else(|| {
            self.wrong_at(
                token,
                format!("expected a whole number of at most 2^47, found {}", show(token)),
            )
        })
    }

    /// A problem there, but for its message.
    fn spot(&self, place: Token<'s>) -> Problem {
        self.placed(Problem::new("", self.loc(place)), place)
    }
}

/// The number behind a word.
fn numbered(word: &str, kind: &str) -> Option<usize> {
    let digits = word.strip_prefix(kind)?;
    digits
        .parse()
        .ok()
        .filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}
