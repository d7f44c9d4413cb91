//! Text to graphs and programs.
//!
//! A file is untrusted: what is built is bounded by the text's length, bodies nest to a limit, sizes are checked before anything is
//! made, and a statement that is wrong is skipped so that the rest of the file is checked too.
//!
//! ```text
//! file      = (graph | (state | entry | plan)*)
//! state     = "state" name ":" type "=" (constant | graph | "prepared" | "given" | "data")
//! entry     = "entry" name "=" graph
//! graph     = "graph" "(" (name ":" type),* ")" "{" statement* region* "return" (name "=")? operand),* "}"
//! region    = "region" operand,* "=" operand,* ("without" operand string)* (kernel | nest)?
//! statement = (label | name) (":" type),* "=" op attribute? operand,* (word "=" attribute)*
//! operand   = label | name | literal
//! literal   = (number | "inf" | "nan" | "true" | "false") (":" dtype)?
//! constant  = literal | type ("[" number,* "]" | string of hexadecimal bytes | "stored" string)
//! attribute = constant | number | "[" number,* "]" | "true" | "false" | string | dtype | type | word | graph
//! type      = dtype "[" number,* "]" ("{" (axis "/" step ":" extent)* "}")?
//! ```

mod expr;
mod kernel;
mod nest;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use super::lex::{Kind, Token, lex};
use super::print::operand;
use super::stored::reference;
use crate::dtype::{DType, Scalar};
use crate::error::{Loc, Problem, Problems};
use crate::fuse::{self, Given, Region};
use crate::graph::{Graph, NodeId};
use crate::layout::{Digit, Layout};
use crate::ops::{self, Attr, Attrs, Input, Op, View};
use crate::program::{Entry, Init, Program, State};
use crate::tensor::{Tensor, Type};

/// How deep bodies may nest.
const MAX_DEPTH: usize = 32;
/// The greatest absolute value of a number among attributes, and of the product of a list of them: then no size computed from
/// them overflows.
const MAX_NUMBER: u64 = 1 << 31;
const MAX_PRODUCT: u64 = 1 << 47;
/// The most characters of a line that a problem shows.
const MAX_SHOWN: usize = 200;

/// The graph that a text holds. `file` is its name in problems.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse(file: &str, source: &str) -> Result<Graph, Problems> {
    let mut parser = Parser::new(file, source);
    let graph = parser.graph().and_then(|graph| parser.end().map(|()| graph));
    parser.finish(graph)
}

/// The program that a text holds; a lone graph is a program without state whose entry is `main`.
///
/// # Errors
/// Everything that is wrong with the text, or if that is nothing, with the program.
pub fn parse_program(file: &str, source: &str) -> Result<Program, Problems> {
    parse_program_with(file, source, &|_| None)
}

/// The same for a text whose large constants are stored beside it: `stored` gives the one of a name.
///
/// # Errors
/// As [`parse_program`]; or a constant is not there, or not the one meant.
pub fn parse_program_with<'s>(
    file: &str,
    source: &'s str,
    stored: &'s dyn Fn(&str) -> Option<Arc<Tensor>>,
) -> Result<Program, Problems> {
    let mut parser = Parser::new(file, source);
    parser.stored = stored;
    let program = parser.program();
    let program = parser.finish(program)?;
    program.verify()?;
    Ok(program)
}

/// A type by itself, as the text form writes it.
pub(super) fn parse_type(source: &str) -> Result<Type, String> {
    let mut parser = Parser::new("type", source);
    let parsed = parser.ty().and_then(|ty| parser.end().map(|()| ty));
    parser.finish(parsed).map_err(|problems| problems.0[0].message.clone())
}

/// The elements of a constant from hexadecimal bytes.
pub(super) fn bytes_of(ty: &Type, digits: &str) -> Result<Vec<u8>, String> {
    let value = |digit: &u8| (*digit as char).to_digit(16).map(|value| value as u8);
    let pairs = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| Some(value(&pair[0])? << 4 | value(pair.get(1)?)?));
    let bytes: Vec<u8> = pairs
        .collect::<Option<_>>()
        .ok_or("not a string of hexadecimal bytes")?;
    check_elements(ty, bytes.len())?;
    Ok(bytes)
}

fn check_elements(ty: &Type, found: usize) -> Result<(), String> {
    let expected = ty.count() * ty.dtype.size_bytes();
    if found != expected {
        return Err(format!("a constant of type {ty} has {expected} bytes, found {found}"));
    }
    if ty.layout != Layout::Dense {
        return Err("a constant is dense".to_owned());
    }
    Ok(())
}

/// Bounds the numbers among attributes.
pub(super) fn check_numbers(numbers: &[i64]) -> Result<(), String> {
    if let Some(number) = numbers.iter().find(|number| number.unsigned_abs() > MAX_NUMBER) {
        return Err(format!("{number} is out of range: the most is 2^31"));
    }
    let sizes = numbers.iter().map(|number| number.unsigned_abs().max(1));
    if sizes.fold(1, u64::saturating_mul) > MAX_PRODUCT {
        return Err("the product of these numbers exceeds 2^47".to_owned());
    }
    Ok(())
}

/// Why a statement was given up.
enum Stop {
    /// Something is wrong, to be reported.
    Wrong(Box<Problem>),
    /// What it depends on is wrong, and has been reported.
    Reported,
}

type Parsed<T> = Result<T, Stop>;

struct Parser<'s> {
    /// The constants beside the text, by name.
    stored: &'s dyn Fn(&str) -> Option<Arc<Tensor>>,
    file: Arc<str>,
    source: &'s str,
    tokens: Vec<Token<'s>>,
    line_starts: Vec<usize>,
    at: usize,
    depth: usize,
    problems: Vec<Problem>,
}

/// A graph being read.
#[derive(Default)]
struct Scope<'s> {
    graph: Graph,
    /// What each label and name stands for; `None` if its statement was wrong.
    names: HashMap<Named<'s>, Option<NodeId>>,
    /// How it is cut, if the text says so, each region with its places.
    regions: Vec<(Places<'s>, Region)>,
}

/// Where a region stands, and each statement of its kernel or nest, in the order in which they are read.
struct Places<'s> {
    region: Token<'s>,
    stmts: Vec<Token<'s>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Named<'s> {
    Label(&'s str),
    Name(String),
}

enum Operand<'s> {
    Named(Named<'s>),
    Literal(Tensor),
}

impl<'s> Parser<'s> {
    fn new(file: &str, source: &'s str) -> Parser<'s> {
        let starts = source
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Parser {
            stored: &|_| None,
            file: file.into(),
            source,
            tokens: lex(source),
            line_starts: std::iter::once(0).chain(starts).collect(),
            at: 0,
            depth: 0,
            problems: Vec::new(),
        }
    }

    fn finish<T>(mut self, parsed: Parsed<T>) -> Result<T, Problems> {
        match parsed {
            Ok(value) if self.problems.is_empty() => return Ok(value),
            Err(Stop::Wrong(problem)) => self.problems.push(*problem),
            Ok(_) | Err(Stop::Reported) => {}
        }
        Err(Problems(self.problems))
    }

    // Files.

    fn program(&mut self) -> Parsed<Program> {
        let mut program = Program::default();
        if self.peek().text == "graph" {
            program = Program::pure("main", self.graph()?);
            self.end()?;
            return Ok(program);
        }
        loop {
            let start = self.at;
            let item = match self.next() {
                Token { kind: Kind::End, .. } => return Ok(program),
                Token {
                    kind: Kind::Newline, ..
                } => continue,
                Token {
                    kind: Kind::Word,
                    text: "state",
                    ..
                } => self.state().map(|state| program.states.push(state)),
                Token {
                    kind: Kind::Word,
                    text: "entry",
                    ..
                } => self.entry().map(|entry| program.entries.push(entry)),
                place @ Token {
                    kind: Kind::Word,
                    text: "plan",
                    ..
                } => self.planned(&mut program, place),
                found => Err(self.wrong_at(
                    found,
                    format!(
                        "expected `graph`, `state`, `entry` or `plan`, found {}; of the stages that `netloom dump` writes, graphs, regions, kernels, nests and plans with their graphs are read",
                        show(found)
                    ),
                )),
            };
            self.recover(item, start);
        }
    }

    fn state(&mut self) -> Parsed<State> {
        let name = self.name()?;
        self.expect(":")?;
        let ty = self.ty()?;
        self.expect("=")?;
        let init = match self.peek().text {
            "graph" => Init::Graph(Arc::new(self.graph()?)),
            word @ ("prepared" | "given" | "data") => {
                self.expect(word)?;
                match word {
                    "prepared" => Init::Prepared,
                    "given" => Init::Given,
                    _ => Init::Data,
                }
            }
            _ => Init::Tensor(Arc::new(self.constant()?)),
        };
        self.statement_end()?;
        Ok(State { name, ty, init })
    }

    fn entry(&mut self) -> Parsed<Entry> {
        let name = self.name()?;
        self.expect("=")?;
        let graph = self.graph()?;
        self.statement_end()?;
        Ok(Entry { name, graph })
    }

    /// A plan, for the entry above that it names.
    fn planned(&mut self, program: &mut Program, place: Token<'s>) -> Parsed<()> {
        let (name, plan) = self.plan(place)?;
        self.statement_end()?;
        let Some(entry) = program.entries.iter_mut().find(|entry| entry.name == name) else {
            // One that is wrong is not there.
            let is_known = self.problems.is_empty();
            let missing = self.wrong_at(place, format!("there is no entry `{name}` above its plan"));
            return Err(if is_known { missing } else { Stop::Reported });
        };
        if entry.graph.plan().is_some() {
            return Err(self.wrong_at(place, format!("there are two plans of the entry `{name}`")));
        }
        entry.graph = std::mem::take(&mut entry.graph).with_plan(Arc::new(plan));
        Ok(())
    }

    // Graphs.

    fn graph(&mut self) -> Parsed<Graph> {
        self.expect("graph")?;
        if self.depth == MAX_DEPTH {
            return Err(self.wrong(format!("bodies nest deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let graph = self.graph_after_keyword();
        self.depth -= 1;
        graph
    }

    fn graph_after_keyword(&mut self) -> Parsed<Graph> {
        let known_problems = self.problems.len();
        let mut scope = Scope::default();
        self.expect("(")?;
        self.list(")", |parser| {
            let place = parser.peek();
            let name = parser.name()?;
            parser.expect(":")?;
            let ty = parser.ty()?;
            let input = parser.push(
                &mut scope.graph,
                place,
                Op::Input(Input { name: name.clone(), ty }),
                &[],
            )?;
            parser.define(&mut scope, place, Named::Name(name), Some(input));
            Ok(())
        })?;
        self.expect("{")?;
        loop {
            let start = self.at;
            let first = self.next();
            let statement = match (first.kind, first.text) {
                (Kind::Newline, _) => continue,
                (Kind::Mark, "}") => {
                    return Err(self.wrong_at(first, "the graph ends without `return`"));
                }
                (Kind::End, _) => return Err(self.wrong_at(first, "the text ends inside a graph")),
                (Kind::Word, "return") => {
                    let outputs = self.outputs(&mut scope);
                    self.recover(outputs, start);
                    break;
                }
                // A value may have this name, too.
                (Kind::Word, "region") if !matches!(self.peek().text, ":" | "=") => self.region(&mut scope, first),
                _ => {
                    self.at = start;
                    self.statement(&mut scope)
                }
            };
            self.recover(statement, start);
        }
        self.skip_newlines();
        let end = self.peek();
        self.expect("}")?;
        if self.problems.len() == known_problems && !scope.regions.is_empty() {
            self.cut(&mut scope, end);
        }
        if self.problems.len() > known_problems {
            Err(Stop::Reported)
        } else {
            Ok(scope.graph)
        }
    }

    /// A region, from after the keyword, with the reasons on the lines below it.
    fn region(&mut self, scope: &mut Scope<'s>, place: Token<'s>) -> Parsed<()> {
        let outputs = self.nodes(scope)?;
        self.expect("=")?;
        let nodes = self.nodes(scope)?;
        self.statement_end()?;
        let mut stopped = Vec::new();
        loop {
            self.skip_newlines();
            if self.peek().text != "without" || matches!(self.peek_after(1).text, ":" | "=") {
                break;
            }
            self.at += 1;
            let id = self.node(scope)?;
            let reason = self.next();
            if reason.kind != Kind::Text {
                let message = format!(
                    "expected why the region ends there, as a string, found {}",
                    show(reason)
                );
                return Err(self.wrong_at(reason, message));
            }
            stopped.push((id, reason.text.to_owned()));
            self.statement_end()?;
        }
        let mut region = Region::new(&scope.graph, nodes, outputs, stopped);
        let mut stmts = Vec::new();
        if let word @ ("kernel" | "nest") = self.peek().text
            && !matches!(self.peek_after(1).text, ":" | "=")
        {
            self.at += 1;
            let given;
            (given, stmts) = match word {
                "kernel" => {
                    let (mut kernel, stmts) = self.kernel()?;
                    kernel.exprs.know(&scope.graph, &region.inputs);
                    (Given::Kernel(Arc::new(kernel)), stmts)
                }
                _ => {
                    let (nest, stmts) = self.nest()?;
                    (Given::Nest(Arc::new(nest)), stmts)
                }
            };
            region.given = Some(given);
            self.statement_end()?;
        }
        scope.regions.push((Places { region: place, stmts }, region));
        Ok(())
    }

    /// Nodes of the graph so far, with commas between them.
    fn nodes(&mut self, scope: &Scope<'s>) -> Parsed<Vec<NodeId>> {
        let mut nodes = vec![self.node(scope)?];
        while self.take(",") {
            nodes.push(self.node(scope)?);
        }
        Ok(nodes)
    }

    fn node(&mut self, scope: &Scope<'s>) -> Parsed<NodeId> {
        let place = self.peek();
        match self.operand()? {
            Operand::Named(named) => self.find(scope, place, &named),
            Operand::Literal(_) => Err(self.wrong_at(place, "expected a label or a name, found a number")),
        }
    }

    /// Cuts the graph as its text says, or reports why it cannot be cut so.
    fn cut(&mut self, scope: &mut Scope<'s>, end: Token<'s>) {
        let (places, regions): (Vec<Places<'_>>, Vec<Region>) = std::mem::take(&mut scope.regions).into_iter().unzip();
        match fuse::check(&scope.graph, &regions) {
            Ok(()) => scope.graph = std::mem::take(&mut scope.graph).with_regions(regions),
            Err(wrong) => {
                for fuse::Wrong { region, stmt, message } in wrong {
                    let place = region.map_or(end, |number| {
                        let Places { region, stmts } = &places[number];
                        stmt.map_or(*region, |stmt| stmts[stmt])
                    });
                    let stop = self.wrong_at(place, message);
                    self.report(stop);
                }
            }
        }
    }

    fn outputs(&mut self, scope: &mut Scope<'s>) -> Parsed<()> {
        for place in 0.. {
            if matches!(self.peek().kind, Kind::Newline | Kind::End) || self.peek().text == "}" {
                break;
            }
            match self.output(scope, place) {
                Ok(output) => scope.graph.outputs.push(output),
                // The outputs after it can be checked all the same.
                Err(stop) => self.report(stop),
            }
            if !self.take(",") {
                break;
            }
        }
        if self.peek().text == "}" {
            Ok(())
        } else {
            self.statement_end()
        }
    }

    fn output(&mut self, scope: &mut Scope<'s>, place: usize) -> Parsed<(String, NodeId)> {
        let first = self.peek();
        let is_named = matches!(first.kind, Kind::Word | Kind::Quoted) && self.peek_after(1).text == "=";
        let name = if is_named {
            let name = self.name()?;
            self.expect("=")?;
            name
        } else {
            place.to_string()
        };
        let value = self.peek();
        let Operand::Named(named) = self.operand()? else {
            return Err(self.wrong_at(value, "an output names a node; give the constant a line of its own"));
        };
        if scope.graph.outputs.iter().any(|(known, _)| *known == name) {
            return Err(self.wrong_at(first, format!("there are two outputs `{name}`")));
        }
        let id = self.find(scope, value, &named)?;
        if scope.graph.node(id).types.len() != 1 {
            return Err(self.wrong_at(value, "an output has one result; take one of them with `part`"));
        }
        Ok((name, id))
    }

    fn statement(&mut self, scope: &mut Scope<'s>) -> Parsed<()> {
        let place = self.peek();
        let target = match self.operand()? {
            Operand::Named(named) => named,
            Operand::Literal(_) => {
                return Err(self.wrong_at(place, "expected a label, a name or `return`, found a number"));
            }
        };
        let made = self.value(scope, place, &target);
        self.define(scope, place, target, made.as_ref().ok().copied());
        made?;
        self.statement_end()
    }

    /// The node of a statement, from after the label.
    fn value(&mut self, scope: &mut Scope<'s>, place: Token<'s>, target: &Named<'s>) -> Parsed<NodeId> {
        let mut types: Vec<Type> = Vec::new();
        if self.take(":") {
            types.push(self.ty()?);
            while self.take(",") {
                types.push(self.ty()?);
            }
        }
        self.expect("=")?;
        let name_place = self.peek();
        let name = self.word("the name of an op")?;
        if name == "input" {
            let (Named::Name(name), [ty]) = (target, types.as_slice()) else {
                return Err(self.wrong_at(place, "an input is written `name: type = input`"));
            };
            let input = Op::Input(Input {
                name: name.clone(),
                ty: ty.clone(),
            });
            return self.push(&mut scope.graph, place, input, &[]);
        }
        let mut attrs: Vec<(&str, Attr)> = Vec::new();
        if self.has_main_attr(name) {
            attrs.push(("", self.attr()?));
        }
        let mut operands: Vec<(Token<'s>, Operand<'s>)> = Vec::new();
        if self.is_operand() {
            operands.push((self.peek(), self.operand()?));
            while self.take(",") {
                operands.push((self.peek(), self.operand()?));
            }
        }
        while self.peek().kind == Kind::Word {
            let attr = self.word("an attribute")?;
            self.expect("=")?;
            attrs.push((attr, self.attr()?));
        }
        let op = ops::parse(name, &attrs.into_iter().collect::<Attrs>())
            .map_err(|message| self.wrong_at(name_place, format!("{name}: {message}")))?;
        let args = self.args(scope, &op, types.first(), &operands)?;
        let id = self.push(&mut scope.graph, name_place, op, &args)?;
        let found = &scope.graph.node(id).types;
        if !types.is_empty() && *found != types {
            let list = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("{name}: the result is {}, not {}", list(found), list(&types));
            return Err(self.wrong_at(place, message));
        }
        Ok(id)
    }

    /// The operands as nodes. A literal is a scalar constant, which an elementwise op broadcasts to its result's shape.
    fn args(
        &mut self,
        scope: &mut Scope<'s>,
        op: &Op,
        result: Option<&Type>,
        operands: &[(Token<'s>, Operand<'s>)],
    ) -> Parsed<Vec<NodeId>> {
        let named: Vec<Option<NodeId>> = operands
            .iter()
            .map(|(place, operand)| match operand {
                Operand::Named(named) => self.find(scope, *place, named).map(Some),
                Operand::Literal(_) => Ok(None),
            })
            .collect::<Parsed<_>>()?;
        let shape = match (op, result) {
            (Op::Map(_), Some(ty)) => ty.shape.clone(),
            (Op::Map(_), None) => match named
                .iter()
                .flatten()
                .next()
                .map(|id| scope.graph.node(*id).types.as_slice())
            {
                Some([ty]) => ty.shape.clone(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let mut args = Vec::with_capacity(operands.len());
        for ((place, operand), named) in operands.iter().zip(named) {
            args.push(match (operand, named) {
                (Operand::Literal(scalar), _) => {
                    let scalar = self.push(&mut scope.graph, *place, Op::Const(Arc::new(scalar.clone())), &[])?;
                    match shape.as_slice() {
                        [] => scalar,
                        _ => self.push(
                            &mut scope.graph,
                            *place,
                            Op::View(View::Broadcast(shape.clone())),
                            &[scalar],
                        )?,
                    }
                }
                (Operand::Named(_), id) => id.expect("names were resolved above"),
            });
        }
        Ok(args)
    }

    fn push(&self, graph: &mut Graph, place: Token<'s>, op: Op, args: &[NodeId]) -> Parsed<NodeId> {
        let loc = self.loc(place);
        graph.push(op, args.to_vec(), loc).map_err(|problem| {
            let types = |id: NodeId| {
                graph
                    .node(id)
                    .types
                    .iter()
                    .map(Type::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let mut problem = self.placed(problem, place);
            problem.notes = args
                .iter()
                .map(|&arg| format!("{}: {}", operand(graph, arg), types(arg)))
                .collect();
            Stop::Wrong(Box::new(problem))
        })
    }

    fn define(&mut self, scope: &mut Scope<'s>, place: Token<'s>, named: Named<'s>, id: Option<NodeId>) {
        let shown = named.to_string();
        if scope.names.insert(named, id).is_some() {
            let problem = self.wrong_at(place, format!("{shown} is defined twice"));
            self.report(problem);
        }
    }

    fn find(&self, scope: &Scope<'s>, place: Token<'s>, named: &Named<'s>) -> Parsed<NodeId> {
        match scope.names.get(named) {
            Some(Some(id)) => Ok(*id),
            Some(None) => Err(Stop::Reported),
            None => Err(self.wrong_at(place, format!("{named} is not defined before this"))),
        }
    }

    // Attributes, operands, types.

    /// Whether what follows the op's name is its attribute without a name rather than its first operand: it cannot be an
    /// operand, or another operand follows without a comma.
    fn has_main_attr(&self, op: &str) -> bool {
        let first = self.peek();
        match first.kind {
            _ if op == "const" => true,
            Kind::Text => true,
            Kind::Mark => first.text == "[",
            Kind::Word if DType::from_name(first.text).is_some() || first.text == "graph" => true,
            Kind::Word | Kind::Number => {
                let after = if self.peek_after(1).text == ":" { 3 } else { 1 };
                let is_attr = self.peek_after(after + 1).text == "=";
                let next = self.peek_after(after).kind;
                matches!(next, Kind::Label | Kind::Quoted | Kind::Number) || next == Kind::Word && !is_attr
            }
            _ => false,
        }
    }

    fn is_operand(&self) -> bool {
        match self.peek().kind {
            Kind::Label | Kind::Quoted | Kind::Number => true,
            Kind::Word => self.peek_after(1).text != "=",
            _ => false,
        }
    }

    fn attr(&mut self) -> Parsed<Attr> {
        let first = self.peek();
        match (first.kind, first.text) {
            (Kind::Word, "graph") => Ok(Attr::Graph(Arc::new(self.graph()?))),
            (Kind::Word, text) if let Some(dtype) = DType::from_name(text) => {
                if self.peek_after(1).text != "[" {
                    self.at += 1;
                    return Ok(Attr::DType(dtype));
                }
                let ty = self.ty()?;
                let is_tensor = self.peek().text == "[" || self.peek().kind == Kind::Text;
                // A word that an operand may have as its name, too.
                if self.peek().text == "stored" && self.peek_after(1).kind == Kind::Text {
                    self.at += 1;
                    Ok(Attr::Tensor(self.beside(&ty)?))
                } else if is_tensor {
                    Ok(Attr::Tensor(Arc::new(self.elements(ty)?)))
                } else {
                    Ok(Attr::Type(ty))
                }
            }
            (Kind::Mark, "[") => self.numbers().map(Attr::Ints),
            (Kind::Text, text) => {
                self.at += 1;
                Ok(Attr::Text(text.to_owned()))
            }
            (Kind::Word | Kind::Number, _) if self.peek_after(1).text == ":" => {
                Ok(Attr::Tensor(Arc::new(self.literal()?)))
            }
            (Kind::Word, text) => {
                self.at += 1;
                Ok(match text {
                    "true" => Attr::Bool(true),
                    "false" => Attr::Bool(false),
                    _ => Attr::Word(text.to_owned()),
                })
            }
            (Kind::Number, text) if is_whole(text) => self.number().map(Attr::Int),
            (Kind::Number, _) => Ok(Attr::Tensor(Arc::new(self.literal()?))),
            _ => Err(self.wrong(format!("expected an attribute, found {}", show(first)))),
        }
    }

    fn operand(&mut self) -> Parsed<Operand<'s>> {
        let first = self.peek();
        match (first.kind, first.text) {
            (Kind::Label, text) if !text.is_empty() => {
                self.at += 1;
                Ok(Operand::Named(Named::Label(text)))
            }
            (Kind::Number, _) | (Kind::Word, "inf" | "nan" | "true" | "false") => self.literal().map(Operand::Literal),
            (Kind::Word | Kind::Quoted, _) => self.name().map(|name| Operand::Named(Named::Name(name))),
            _ => Err(self.wrong(format!("expected an operand, found {}", show(first)))),
        }
    }

    /// A constant: a literal, or a type with its elements.
    fn constant(&mut self) -> Parsed<Tensor> {
        match self.attr()? {
            Attr::Tensor(tensor) => Ok(Arc::unwrap_or_clone(tensor)),
            other => Err(self.wrong(format!(
                "expected a constant with its type, such as `0:i64` or `f32[2] [1.0,2.0]`, found `{other}`"
            ))),
        }
    }

    /// A scalar: `0.5`, `7`, `true`, or with its type: `0.5:f64`.
    fn literal(&mut self) -> Parsed<Tensor> {
        let token = self.next();
        let dtype = if self.take(":") {
            let name = self.word("an element type")?;
            DType::from_name(name).ok_or_else(|| self.wrong(format!("there is no element type `{name}`")))?
        } else {
            match token.text {
                "true" | "false" => DType::Bool,
                text if is_whole(text) => DType::I64,
                _ => DType::F32,
            }
        };
        let bits = self.element(token, dtype)?;
        Ok(Tensor::from_bytes(
            dtype,
            [],
            bits.to_le_bytes()[..dtype.size_bytes()].to_vec(),
        ))
    }

    /// The elements of a constant of that type.
    fn elements(&mut self, ty: Type) -> Parsed<Tensor> {
        let place = self.peek();
        let mut bytes: Vec<u8> = Vec::new();
        if place.kind == Kind::Text {
            self.at += 1;
            bytes = bytes_of(&ty, place.text).map_err(|message| self.wrong_at(place, message))?;
        } else {
            self.expect("[")?;
            self.list("]", |parser| {
                let token = parser.next();
                let bits = parser.element(token, ty.dtype)?;
                bytes.extend_from_slice(&bits.to_le_bytes()[..ty.dtype.size_bytes()]);
                Ok(())
            })?;
        }
        check_elements(&ty, bytes.len()).map_err(|message| self.wrong_at(place, message))?;
        Ok(Tensor::from_bytes(ty.dtype, ty.shape, bytes))
    }

    /// A constant of that type that lies beside the text.
    fn beside(&mut self, ty: &Type) -> Parsed<Arc<Tensor>> {
        let name = self.next();
        if name.kind != Kind::Text {
            return Err(self.wrong_at(name, format!("expected the name of a constant, found {}", show(name))));
        }
        let Some(tensor) = (self.stored)(name.text) else {
            return Err(self.wrong_at(name, format!("there is no constant \"{}\" beside the text", name.text)));
        };
        if tensor.ty() != *ty || reference(&tensor) != name.text {
            let found = format!(
                "the constant \"{}\" beside the text, a {}, is not the one meant",
                name.text,
                tensor.ty()
            );
            return Err(self.wrong_at(name, found));
        }
        Ok(tensor)
    }

    /// The bits of one element. Hexadecimal gives them as they are.
    fn element(&self, token: Token<'s>, dtype: DType) -> Parsed<u64> {
        let text = token.text;
        let bits = if let Some(digits) = text.strip_prefix("0x") {
            u64::from_str_radix(digits, 16)
                .ok()
                .filter(|bits| dtype.size_bytes() == 8 || bits >> (8 * dtype.size_bytes()) == 0)
        } else if dtype == DType::Bool {
            text.parse::<bool>().ok().map(u64::from)
        } else if let Some((low, high)) = dtype.int_range() {
            let value = text.parse::<i128>().ok().filter(|value| (low..=high).contains(value));
            value.map(|value| Scalar::Int(value).to_bits(dtype))
        } else if dtype == DType::F64 {
            text.parse::<f64>()
                .ok()
                .map(|value| Scalar::Float(value).to_bits(dtype))
        } else {
            text.parse::<f32>()
                .ok()
                .map(|value| Scalar::Float(f64::from(value)).to_bits(dtype))
        };
        bits.ok_or_else(|| self.wrong_at(token, format!("{} is no {dtype}", show(token))))
    }

    fn ty(&mut self) -> Parsed<Type> {
        let place = self.peek();
        let name = self.word("a type")?;
        let dtype =
            DType::from_name(name).ok_or_else(|| self.wrong_at(place, format!("there is no element type `{name}`")))?;
        let extents = self.numbers()?;
        let shape: Vec<usize> = extents
            .iter()
            .map(|&extent| usize::try_from(extent).ok())
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong_at(place, "an extent is negative"))?;
        let mut ty = Type::new(dtype, shape);
        if self.take("{") {
            ty.layout = self.digits()?;
        }
        ty.check().map_err(|message| self.wrong_at(place, message))?;
        Ok(ty)
    }

    /// A layout, from after its brace.
    fn digits(&mut self) -> Parsed<Layout> {
        let mut digits = Vec::new();
        while !self.take("}") {
            let axis = self.size()?;
            self.expect("/")?;
            let step = self.size()?;
            self.expect(":")?;
            let extent = self.size()?;
            digits.push(Digit { axis, step, extent });
        }
        Ok(Layout::Digits(digits))
    }

    /// `[1,2,3]`
    fn numbers(&mut self) -> Parsed<Vec<i64>> {
        let place = self.peek();
        let mut numbers = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            numbers.push(parser.number()?);
            Ok(())
        })?;
        check_numbers(&numbers).map_err(|message| self.wrong_at(place, message))?;
        Ok(numbers)
    }

    fn number(&mut self) -> Parsed<i64> {
        let token = self.next();
        let number = token.text.parse::<i64>().ok().filter(|_| token.kind == Kind::Number);
        let number =
            number.ok_or_else(|| self.wrong_at(token, format!("expected a whole number, found {}", show(token))))?;
        check_numbers(&[number]).map_err(|message| self.wrong_at(token, message))?;
        Ok(number)
    }

    fn size(&mut self) -> Parsed<usize> {
        let token = self.peek();
        let number = self.number()?;
        usize::try_from(number).map_err(|_| self.wrong_at(token, format!("{number} is negative")))
    }

    fn name(&mut self) -> Parsed<String> {
        let token = self.next();
        match token.kind {
            Kind::Word if !super::is_reserved(token.text) => Ok(token.text.to_owned()),
            Kind::Quoted => {
                let mut name = String::with_capacity(token.text.len());
                let mut chars = token.text.chars();
                while let Some(c) = chars.next() {
                    name.push(match c {
                        '\\' => match chars.next() {
                            Some('n') => '\n',
                            Some(escaped) => escaped,
                            None => return Err(self.wrong_at(token, "a name ends in `\\`")),
                        },
                        c => c,
                    });
                }
                Ok(name)
            }
            _ => Err(self.wrong_at(token, format!("expected a name, found {}", show(token)))),
        }
    }

    // Tokens.

    fn peek(&self) -> Token<'s> {
        self.peek_after(0)
    }

    fn peek_after(&self, count: usize) -> Token<'s> {
        let last = self.tokens.len() - 1;
        self.tokens[(self.at + count).min(last)]
    }

    fn next(&mut self) -> Token<'s> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// Takes a mark if it is there.
    fn take(&mut self, mark: &str) -> bool {
        let found = self.peek().kind == Kind::Mark && self.peek().text == mark;
        if found {
            self.at += 1;
        }
        found
    }

    /// Takes a mark or keyword.
    fn expect(&mut self, text: &str) -> Parsed<()> {
        let found = self.peek();
        if !matches!(found.kind, Kind::Mark | Kind::Word) || found.text != text {
            return Err(self.wrong(format!("expected `{text}`, found {}", show(found))));
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, wanted: &str) -> Parsed<&'s str> {
        let found = self.peek();
        if found.kind != Kind::Word {
            return Err(self.wrong(format!("expected {wanted}, found {}", show(found))));
        }
        self.at += 1;
        Ok(found.text)
    }

    /// Items with commas between them up to a closing mark; lines may end anywhere.
    fn list(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        self.skip_newlines();
        while !self.take(close) {
            item(self)?;
            self.skip_newlines();
            if !self.take(",") {
                self.expect(close)?;
                return Ok(());
            }
            self.skip_newlines();
        }
        Ok(())
    }

    fn skip_newlines(&mut self) {
        while self.peek().kind == Kind::Newline {
            self.at += 1;
        }
    }

    fn statement_end(&mut self) -> Parsed<()> {
        let found = self.peek();
        match found.kind {
            Kind::Newline | Kind::End => Ok(()),
            _ => Err(self.wrong(format!("expected the end of the line, found {}", show(found)))),
        }
    }

    fn end(&mut self) -> Parsed<()> {
        self.skip_newlines();
        let found = self.peek();
        match found.kind {
            Kind::End => Ok(()),
            _ => Err(self.wrong(format!("expected the end of the text, found {}", show(found)))),
        }
    }

    /// Reports what is wrong with the statement that began at token `start`, and skips the rest of it, the bodies in it included.
    fn recover(&mut self, parsed: Parsed<()>, start: usize) {
        let Err(stop) = parsed else { return };
        self.report(stop);
        let mut open: usize = 0;
        let stopped_at = self.at;
        self.at = start;
        loop {
            let token = self.peek();
            match (token.kind, token.text) {
                (Kind::End, _) => return,
                (Kind::Newline, _) if open == 0 && self.at >= stopped_at => return,
                (Kind::Mark, "}") if open == 0 && self.at >= stopped_at => return,
                (Kind::Mark, "{") => open += 1,
                (Kind::Mark, "}") => open = open.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
    }

    fn report(&mut self, stop: Stop) {
        if let Stop::Wrong(problem) = stop {
            self.problems.push(*problem);
        }
    }

    fn wrong(&self, message: impl Into<String>) -> Stop {
        self.wrong_at(self.peek(), message)
    }

    fn wrong_at(&self, place: Token<'s>, message: impl Into<String>) -> Stop {
        let problem = Problem::new(message, self.loc(place));
        Stop::Wrong(Box::new(self.placed(problem, place)))
    }

    fn loc(&self, place: Token<'s>) -> Loc {
        Loc::Text {
            file: self.file.clone(),
            line: u32::try_from(self.line_at(place.start) + 1).unwrap_or(u32::MAX),
        }
    }

    /// The problem with where on its line it is, and the line.
    fn placed(&self, problem: Problem, place: Token<'s>) -> Problem {
        let line_start = self.line_starts[self.line_at(place.start)];
        Problem {
            column: Some(self.source[line_start..place.start].chars().count() + 1),
            source_line: Some(self.shown_line(place.start)),
            ..problem
        }
    }

    fn line_at(&self, start: usize) -> usize {
        self.line_starts.partition_point(|&line_start| line_start <= start) - 1
    }

    fn shown_line(&self, start: usize) -> String {
        let line_start = self.line_starts[self.line_at(start)];
        let line = self.source[line_start..].lines().next().unwrap_or_default().trim();
        match line.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => format!("{} …", &line[..end]),
            None => line.to_owned(),
        }
    }
}

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Named::Label(label) => write!(f, "`%{label}`"),
            Named::Name(name) => write!(f, "`{name}`"),
        }
    }
}

fn is_whole(number: &str) -> bool {
    number
        .strip_prefix('-')
        .unwrap_or(number)
        .bytes()
        .all(|byte| byte.is_ascii_digit())
}

/// A token as messages show it.
fn show(token: Token<'_>) -> String {
    let text: String = token.text.chars().take(40).collect();
    match token.kind {
        Kind::Newline => "the end of the line".to_owned(),
        Kind::End => "the end of the text".to_owned(),
        Kind::Label => format!("`%{text}`"),
        Kind::Text => format!("`\"{text}\"`"),
        Kind::Word | Kind::Quoted | Kind::Number | Kind::Mark | Kind::Stray => format!("`{text}`"),
    }
}
