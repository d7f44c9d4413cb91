//! Plans as lists of commands: data alone, which [`super::record`] records for a device and [`super::script`] writes down for other programs.
//!
//! Commands follow each other in one list as far as the host need not look: repeats are written out, so every address is known, and a barrier
//! stands only where a command touches bytes that an earlier one since the last barrier has written, or writes what it has touched.
//! Where a plan branches, both sides have lists of their own, and the host reads the condition between them.

use netloom_ir::graph::NodeId;

use super::device::Traits;
use super::modules::{ALIGN, Kernel};
use crate::plan::{Base, KernelId, Place, Port, Step, TempId};

/// A piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// The block of states.
    States,
    /// The block of constants.
    Constants,
    /// What steps share.
    Arena,
    /// What invocations have to themselves.
    Scratch,
    /// Arguments and results.
    Ports,
    /// The condition that the host is to look at: one byte.
    Flag,
    /// Arguments and results on the host.
    Staging,
    /// A result that has a buffer of its own.
    Temp(TempId),
}

/// Bytes of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Which.
    pub area: Area,
    /// Bytes from its start.
    pub start: u64,
    /// How many.
    pub bytes: u64,
}

impl Span {
    /// Whether they share a byte.
    pub fn overlaps(&self, other: &Span) -> bool {
        self.area == other.area && self.start < other.start + other.bytes && other.start < self.start + self.bytes
    }
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Everything above comes before everything below.
    Barrier,
    /// Runs a module.
    Dispatch {
        /// Which.
        module: usize,
        /// What its bindings show; where a tensor has no elements, no bytes.
        bound: Vec<Span>,
        /// Its push constants.
        push: Vec<u32>,
    },
    /// Copies bytes.
    Copy {
        /// Read.
        from: Span,
        /// Written, of the same length.
        to: Span,
    },
    /// Writes a number of eight bytes.
    Write {
        /// Where.
        to: Span,
        /// What.
        value: u64,
    },
    /// Waits for everything above, and notes the time.
    Stamp,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment<T> {
    /// Commands, which see what was done before.
    Run(T),
    /// Whichever side the flag says.
    Branch {
        /// Run if the flag is set.
        then: Vec<Segment<T>>,
        /// Run otherwise.
        otherwise: Vec<Segment<T>>,
    },
    /// `condition`, then, while it sets the flag, `body` and `condition` again.
    While {
        /// Sets the flag.
        condition: Vec<Segment<T>>,
        /// One round.
        body: Vec<Segment<T>>,
    },
}

/// Makes something of every list in segments.
///
/// # Errors
/// The first that `make` gives.
pub fn map<T, U, E>(segments: &[Segment<T>], make: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Vec<Segment<U>>, E> {
    let each = |segment: &Segment<T>| {
        Ok(match segment {
            Segment::Run(commands) => Segment::Run(make(commands)?),
            Segment::Branch { then, otherwise } => Segment::Branch {
                then: map(then, make)?,
                otherwise: map(otherwise, make)?,
            },
            Segment::While { condition, body } => Segment::While {
                condition: map(condition, make)?,
                body: map(body, make)?,
            },
        })
    };
    segments.iter().map(each).collect()
}

/// Where the arguments and results of an entry lie among the ports.
#[derive(Clone, Debug)]
pub struct Ports {
    /// By argument.
    pub inputs: Vec<Span>,
    /// By result.
    pub outputs: Vec<Span>,
    /// In all.
    pub bytes: u64,
}

impl Ports {
    /// One after the other.
    pub fn of(inputs: &[Port], outputs: &[Port]) -> Ports {
        let mut next = 0;
        let mut place = |port: &Port| {
            let (start, bytes) = (next, port.ty.len_bytes() as u64);
            next += bytes.next_multiple_of(ALIGN);
            Span {
                area: Area::Ports,
                start,
                bytes,
            }
        };
        Ports {
            inputs: inputs.iter().map(&mut place).collect(),
            outputs: outputs.iter().map(&mut place).collect(),
            bytes: next,
        }
    }
}

/// An entry as commands.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// What runs.
    pub segments: Vec<Segment<Vec<Command>>>,
    /// The kernels between whose stamps time passes, in order, and the nodes that they compute, unless they are of a body.
    pub timed: Vec<(KernelId, Vec<NodeId>)>,
}

/// Bytes of a texel of four `f32`.
const FOUR_BYTES: u64 = 16;

/// Which kernels have something to themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// None: as few lists and barriers as there can be.
    None,
    /// Each has a list.
    Lists,
    /// Each runs alone, between two stamps.
    Stamps,
}

/// Steps on their way into commands.
pub struct Lister<'a> {
    kernels: &'a [Kernel],
    traits: &'a Traits,
    ports: &'a Ports,
    apart: Apart,
    listing: Listing,
    /// The list that is being written.
    commands: Vec<Command>,
    /// What has been touched since the last barrier, and whether it was written.
    open: Vec<(Span, bool)>,
    /// The iteration numbers of the enclosing repeats, outermost first.
    iterations: Vec<usize>,
    /// The number of enclosing repeats, branches and loops.
    depth: usize,
}

impl<'a> Lister<'a> {
    /// Nothing yet, for steps that run these kernels.
    pub fn new(kernels: &'a [Kernel], traits: &'a Traits, ports: &'a Ports, apart: Apart) -> Lister<'a> {
        Lister {
            kernels,
            traits,
            ports,
            apart,
            listing: Listing::default(),
            commands: Vec::new(),
            open: Vec::new(),
            iterations: Vec::new(),
            depth: 0,
        }
    }

    /// What runs.
    pub fn finish(mut self) -> Listing {
        self.end();
        self.listing
    }

    /// Copies arguments to the device.
    pub fn arguments(&mut self) {
        for &to in &self.ports.inputs {
            let area = Area::Staging;
            self.copy(Span { area, ..to }, to);
        }
    }

    /// Copies results to the host.
    pub fn results(&mut self) {
        for &from in &self.ports.outputs {
            let area = Area::Staging;
            self.copy(from, Span { area, ..from });
        }
    }

    /// Steps, one after the other.
    pub fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Kernel { kernel, buffers, nodes } => self.kernel(*kernel, buffers, nodes),
                Step::Copy { from, to } => {
                    let (from, to) = (self.span(from), self.span(to));
                    self.copy(from, to);
                }
                Step::Count { to, from_end } => {
                    let iteration = *self.iterations.last().expect("a count stands in a repeat");
                    let value = from_end.map_or(iteration, |times| times - 1 - iteration) as u64;
                    let to = self.span(to);
                    self.push(vec![(to, true)], Command::Write { to, value });
                }
                // The plan's barriers are for the workers of a CPU.
                Step::Barrier => {}
                Step::Repeat { times, body } => {
                    for iteration in 0..*times {
                        self.iterations.push(iteration);
                        self.body(body);
                        self.iterations.pop();
                    }
                }
                Step::Branch {
                    condition,
                    then,
                    otherwise,
                } => {
                    self.flag(condition);
                    self.end();
                    let then = self.segments(|own| own.body(then));
                    let otherwise = self.segments(|own| own.body(otherwise));
                    self.listing.segments.push(Segment::Branch { then, otherwise });
                }
                Step::While { condition, go_on, body } => {
                    self.end();
                    let condition = self.segments(|own| {
                        own.body(condition);
                        own.flag(go_on);
                    });
                    let body = self.segments(|own| own.body(body));
                    self.listing.segments.push(Segment::While { condition, body });
                }
            }
        }
    }

    /// What has been listed before, after what is there.
    pub fn append(&mut self, segments: &[Segment<Vec<Command>>]) {
        self.end();
        self.listing.segments.extend_from_slice(segments);
    }

    /// The steps of a body: their kernels' nodes are not the entry's.
    fn body(&mut self, steps: &[Step]) {
        self.depth += 1;
        self.steps(steps);
        self.depth -= 1;
    }

    /// What is written, as segments of their own.
    fn segments(&mut self, write: impl FnOnce(&mut Self)) -> Vec<Segment<Vec<Command>>> {
        let outer = std::mem::take(&mut self.listing.segments);
        write(self);
        self.end();
        std::mem::replace(&mut self.listing.segments, outer)
    }

    /// Copies a condition to where the host looks.
    fn flag(&mut self, condition: &Place) {
        let from = self.span(condition);
        let (area, start) = (Area::Flag, 0);
        self.copy(from, Span { area, start, ..from });
    }

    fn span(&self, place: &Place) -> Span {
        let (area, start) = match place.base {
            Base::Input(number) => (Area::Ports, self.ports.inputs[number].start),
            Base::Output(number) => (Area::Ports, self.ports.outputs[number].start),
            Base::States => (Area::States, 0),
            Base::Constants => (Area::Constants, 0),
            Base::Arena => (Area::Arena, 0),
            Base::Worker => (Area::Scratch, 0),
            Base::Temp(temp) => (Area::Temp(temp), 0),
        };
        let strides = place.strides.iter().zip(&self.iterations);
        let moved: isize = strides.map(|(stride, &iteration)| stride * iteration as isize).sum();
        let start = start as i64 + place.offset as i64 + moved as i64;
        Span {
            area,
            start: u64::try_from(start).expect("a place lies within its area"),
            bytes: place.bytes as u64,
        }
    }

    /// Ends the list, if there is one: the next sees what it did.
    fn end(&mut self) {
        self.open.clear();
        if !self.commands.is_empty() {
            let commands = std::mem::take(&mut self.commands);
            self.listing.segments.push(Segment::Run(commands));
        }
    }

    /// A command, with a barrier before it if it needs one.
    fn push(&mut self, accesses: Vec<(Span, bool)>, command: Command) {
        let clashes = |(new, writes): &(Span, bool)| {
            let mut open = self.open.iter();
            open.any(|(old, written)| (*written || *writes) && old.overlaps(new))
        };
        if accesses.iter().any(clashes) {
            self.commands.push(Command::Barrier);
            self.open.clear();
        }
        self.open.extend(accesses);
        self.commands.push(command);
    }

    fn copy(&mut self, from: Span, to: Span) {
        if from.bytes > 0 {
            self.push(vec![(from, false), (to, true)], Command::Copy { from, to });
        }
    }

    fn kernel(&mut self, id: KernelId, places: &[Place], nodes: &[NodeId]) {
        if self.apart == Apart::Stamps {
            self.stamp();
            let nodes = if self.depth > 0 { &[] } else { nodes };
            self.listing.timed.push((id, nodes.to_vec()));
        }
        self.dispatches(&self.kernels[id.0], places);
        match self.apart {
            Apart::None => {}
            Apart::Lists => self.end(),
            Apart::Stamps => self.stamp(),
        }
    }

    fn stamp(&mut self) {
        self.commands.push(Command::Stamp);
        self.open.clear();
    }

    fn dispatches(&mut self, kernel: &Kernel, places: &[Place]) {
        let alignment = self.traits.binding_alignment;
        let (mut spans, mut push) = (Vec::new(), Vec::new());
        for (place, buffer) in places.iter().zip(&kernel.buffers) {
            let tensor = match buffer.scratch {
                Some((start, bytes)) => Span {
                    area: Area::Scratch,
                    start,
                    bytes,
                },
                None => self.span(place),
            };
            // Bindings begin where devices let them; the kernel is told how far from there its tensor begins.
            let before = tensor.start % alignment;
            push.push((before / buffer.element_bytes) as u32);
            spans.push(Span {
                start: tensor.start - before,
                bytes: before + tensor.bytes,
                ..tensor
            });
        }
        let windows =
            (spans.iter().zip(&kernel.buffers)).flat_map(|(&span, buffer)| self.windows(span, buffer.bindings.len()));
        let views = spans.iter().zip(&kernel.buffers).flat_map(|(&span, buffer)| {
            // A view has whole texels; what is read of four neighbours at once lies in such.
            let whole = span.bytes / FOUR_BYTES * FOUR_BYTES;
            let four = Span { bytes: whole, ..span };
            let views = [buffer.views.one.map(|_| span), buffer.views.four.map(|_| four)];
            views.into_iter().flatten()
        });
        let bound: Vec<Span> = windows.chain(views).collect();
        for (number, touched) in kernel.touched.iter().enumerate() {
            // What a binding spans counts, for the validation layers cannot know what the kernel leaves alone.
            let accesses = touched.iter().map(|&(buffer, writes)| (spans[buffer], writes));
            let command = Command::Dispatch {
                module: kernel.first + number,
                bound: bound.clone(),
                push: push.clone(),
            };
            self.push(accesses.collect(), command);
        }
    }

    /// What the bindings of a buffer show.
    fn windows(&self, whole: Span, count: usize) -> impl Iterator<Item = Span> + use<> {
        let most = match count {
            1 => whole.bytes,
            _ => self.traits.window_bytes(),
        };
        (0..count as u64).map(move |number| {
            let before = (number * most).min(whole.bytes);
            Span {
                start: whole.start + before,
                bytes: (whole.bytes - before).min(most),
                ..whole
            }
        })
    }
}
