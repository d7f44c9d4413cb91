//! Scripts from their text.
//!
//! Whatever a file says, no command that is read here reaches beyond the areas; of its modules we know what the device's driver says of them.

use std::str::FromStr;

use netloom_ir::{DType, Type};

use super::{AREAS, BINDINGS, Entry, Script};
use crate::gpu::commands::{Area, Command, Ports, Segment, Span};
use crate::gpu::modules::{ALIGN, Binding, Module};
use crate::gpu::needs::Needs;
use crate::plan::Port;

/// The version of the text.
pub const VERSION: u32 = 3;

/// More than any machine has, and little enough to reckon with.
const MOST_AREA_BYTES: u64 = 1 << 47;

/// Branches and loops within each other. A guess.
const MOST_NESTED: usize = 64;

/// A script as its text says, with the files of what is in the areas at first. `load` gives the words of a module's file.
///
/// # Errors
/// Which line is wrong, and why; or what `load` says.
pub fn script(
    text: &str,
    load: impl Fn(&str) -> Result<Vec<u32>, String>,
) -> Result<(Script, [Option<String>; 6]), String> {
    let mut reader = Reader {
        lines: text.lines().enumerate(),
        script: Script {
            needs: Needs::default(),
            modules: Vec::new(),
            entries: Vec::new(),
            area_bytes: [0; 6],
        },
    };
    let version: u32 = reader.line("netloom-vulkan")?.last()?;
    if version != VERSION {
        return Err(format!(
            "it is of version {version}, this netloom knows {VERSION}: compile the model again"
        ));
    }
    let count: usize = reader.line("needs")?.last()?;
    for _ in 0..count {
        let mut line = reader.line("need")?;
        let (name, number) = (line.word()?, line.number);
        let least = line.last()?;
        let added = reader.script.needs.add(name, least);
        added.map_err(|why| format!("line {number}: {why}"))?;
    }
    let mut files = [const { None }; 6];
    for (at, file) in files.iter_mut().enumerate() {
        let mut line = reader.line("area")?;
        let bytes = line.number()?;
        if bytes > MOST_AREA_BYTES {
            return Err(line.wrong("no machine has so much memory"));
        }
        reader.script.area_bytes[at] = bytes;
        let name: String = line.last()?;
        *file = Some(name).filter(|name| name != "-");
    }
    let count: usize = reader.line("modules")?.last()?;
    for _ in 0..count {
        let mut line = reader.line("module")?;
        let file = line.word()?;
        let groups = [line.number()?, line.number()?];
        let pushed = line.number()?;
        let letters: String = line.last()?;
        let binding = |letter| BINDINGS.iter().find(|(_, known)| *known == letter);
        let bindings = letters
            .chars()
            .map(|letter| binding(letter).map(|(binding, _)| *binding));
        let bindings: Option<Vec<Binding>> = bindings.collect();
        reader.script.modules.push(Module {
            words: load(file)?,
            bindings: bindings.ok_or_else(|| line.wrong("there is no such kind of binding"))?,
            pushed,
            groups,
        });
    }
    while let Some(line) = reader.next() {
        let entry = reader.entry(line)?;
        reader.script.entries.push(entry);
    }
    Ok((reader.script, files))
}

/// A line, as far as it has not been read.
struct Line<'a> {
    number: usize,
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn wrong(&self, why: &str) -> String {
        format!("line {}: {why}", self.number)
    }

    fn word(&mut self) -> Result<&'a str, String> {
        let (word, rest) = self.rest.split_once(' ').unwrap_or((self.rest, ""));
        if word.is_empty() {
            return Err(self.wrong("something is missing"));
        }
        self.rest = rest;
        Ok(word)
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse()
            .map_err(|_| self.wrong(&format!("`{word}` is not what stands there")))
    }

    /// What the line ends with.
    fn last<T: FromStr>(&mut self) -> Result<T, String> {
        let value = self.number()?;
        self.end()?;
        Ok(value)
    }

    fn end(&self) -> Result<(), String> {
        match self.rest {
            "" => Ok(()),
            more => Err(self.wrong(&format!("`{more}` is too much"))),
        }
    }
}

struct Reader<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    script: Script,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Line<'a>> {
        let (at, rest) = self.lines.next()?;
        Some(Line { number: at + 1, rest })
    }

    fn any_line(&mut self) -> Result<Line<'a>, String> {
        self.next().ok_or_else(|| "it ends too early".to_owned())
    }

    /// The next line, which begins with a word.
    fn line(&mut self, first: &str) -> Result<Line<'a>, String> {
        let mut line = self.any_line()?;
        match line.word()? {
            word if word == first => Ok(line),
            word => Err(line.wrong(&format!("`{first}` is expected, there is `{word}`"))),
        }
    }

    fn entry(&mut self, mut line: Line<'a>) -> Result<Entry, String> {
        if line.word()? != "entry" {
            return Err(line.wrong("`entry` is expected"));
        }
        let mut entry = Entry {
            name: line.last()?,
            inputs: Vec::new(),
            outputs: Vec::new(),
            ports: Ports {
                inputs: Vec::new(),
                outputs: Vec::new(),
                bytes: self.area_bytes(Area::Ports),
            },
            segments: Vec::new(),
        };
        let first = loop {
            let mut line = self.any_line()?;
            let word = line.word()?;
            let (ports, places) = match word {
                "input" => (&mut entry.inputs, &mut entry.ports.inputs),
                "output" => (&mut entry.outputs, &mut entry.ports.outputs),
                _ => break (word, line),
            };
            let (port, place) = self.port(line)?;
            ports.push(port);
            places.push(place);
        };
        entry.segments = self.segments("end", Some(first), MOST_NESTED)?;
        Ok(entry)
    }

    fn area_bytes(&self, area: Area) -> u64 {
        let mut known = AREAS.iter().zip(self.script.area_bytes);
        known.find(|(known, _)| **known == area).map_or(0, |(_, bytes)| bytes)
    }

    fn port(&self, mut line: Line<'a>) -> Result<(Port, Span), String> {
        // What the C host calls it.
        line.word()?;
        let place = self.span_of(Area::Ports, &mut line)?;
        let dtype = DType::from_name(line.word()?).ok_or_else(|| line.wrong("there is no such type"))?;
        let rank: usize = line.number()?;
        let shape = (0..rank).map(|_| line.number()).collect::<Result<Vec<usize>, _>>()?;
        let ty = Type::new(dtype, shape);
        ty.check().map_err(|why| line.wrong(&why))?;
        if ty.len_bytes() as u64 != place.bytes {
            return Err(line.wrong("its length is not that of its type"));
        }
        let name = serde_json::from_str(line.rest).map_err(|_| line.wrong("it ends with no name in quotes"))?;
        Ok((Port { name, ty }, place))
    }

    fn span(&self, line: &mut Line<'a>) -> Result<Span, String> {
        let area: usize = line.number()?;
        match AREAS.get(area) {
            Some(&area) => self.span_of(area, line),
            None => Err(line.wrong("there is no such area")),
        }
    }

    fn span_of(&self, area: Area, line: &mut Line<'a>) -> Result<Span, String> {
        let (start, bytes): (u64, u64) = (line.number()?, line.number()?);
        match start.checked_add(bytes) {
            Some(end) if end <= self.area_bytes(area) => Ok(Span { area, start, bytes }),
            _ => Err(line.wrong("that is outside of its area")),
        }
    }

    /// Segments up to a line that ends them. The first line may have been begun.
    fn segments(
        &mut self,
        end: &str,
        mut begun: Option<(&'a str, Line<'a>)>,
        nested: usize,
    ) -> Result<Vec<Segment<Vec<Command>>>, String> {
        let mut segments = Vec::new();
        loop {
            let (word, line) = match begun.take() {
                Some(begun) => begun,
                None => {
                    let mut line = self.any_line()?;
                    (line.word()?, line)
                }
            };
            if nested == 0 {
                return Err(line.wrong("too much stands within something else"));
            }
            match word {
                word if word == end => {
                    line.end()?;
                    return Ok(segments);
                }
                "branch" => {
                    line.end()?;
                    let then = self.segments("else", None, nested - 1)?;
                    let otherwise = self.segments("end", None, nested - 1)?;
                    segments.push(Segment::Branch { then, otherwise });
                }
                "while" => {
                    line.end()?;
                    let condition = self.segments("do", None, nested - 1)?;
                    let body = self.segments("end", None, nested - 1)?;
                    segments.push(Segment::While { condition, body });
                }
                _ => {
                    let command = self.command(word, line)?;
                    match segments.last_mut() {
                        Some(Segment::Run(commands)) => commands.push(command),
                        _ => segments.push(Segment::Run(vec![command])),
                    }
                }
            }
        }
    }

    fn command(&self, word: &str, mut line: Line<'a>) -> Result<Command, String> {
        let command = match word {
            "barrier" => Command::Barrier,
            "copy" => {
                let (from, to) = (self.span(&mut line)?, self.span(&mut line)?);
                if from.bytes != to.bytes || from.bytes == 0 || from.overlaps(&to) {
                    return Err(line.wrong("bytes are copied to as many elsewhere"));
                }
                Command::Copy { from, to }
            }
            "write" => {
                let (to, value) = (self.span(&mut line)?, line.number()?);
                if to.bytes != 8 || to.start % 4 != 0 {
                    return Err(line.wrong("a number has eight bytes, aligned to four"));
                }
                Command::Write { to, value }
            }
            "dispatch" => {
                let module: usize = line.number()?;
                let known = self.script.modules.get(module);
                let known = known.ok_or_else(|| line.wrong("there is no such module"))?;
                let bound = known.bindings.iter().map(|_| self.span(&mut line));
                let bound = bound.collect::<Result<Vec<Span>, _>>()?;
                if bound.iter().any(|span| span.start % ALIGN != 0) {
                    return Err(line.wrong(&format!("what is bound begins at multiples of {ALIGN}")));
                }
                let push = (0..known.pushed).map(|_| line.number());
                let push = push.collect::<Result<Vec<u32>, _>>()?;
                Command::Dispatch { module, bound, push }
            }
            other => return Err(line.wrong(&format!("there is no command `{other}`"))),
        };
        line.end()?;
        Ok(command)
    }
}
