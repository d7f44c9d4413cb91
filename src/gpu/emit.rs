//! Nests in SPIR-V.
//!
//! In: a [`Nest`]. Out: one module for each of its phases, the parts between barriers, which are dispatches one after the other. Nothing
//! is decided here but where values are computed, as on the CPU: an expression is emitted before the outermost loop that changes none of
//! what it depends on.
//!
//! An iteration of a `Workers` loop is one invocation, one of a `Group` loop a workgroup, whose invocations take the iterations of its `Item`
//! loops ([`mod@group`]); every other loop runs inside an invocation. Worker scratch has a copy for each invocation,
//! element by element beside those of its neighbours.
//!
//! # The interface of a module
//! Entry point `main`, groups of [`Phase::group`] invocations in dimension 0 (and 1, where there are more groups than one dimension takes). Set 0
//! holds storage buffers for the buffers of the nest, in order ([`bindings`]), then, where that is quicker to read, views of some of them as
//! texels ([`views`]). Push constant `i` is the element at which buffer `i` starts within
//! its first binding. Indices are computed in 32 bits where their ranges allow.

use std::ops::Range;

use hashbrown::{HashMap, HashSet};
use netloom_ir::DType;
use netloom_ir::kernel::nest::{FOUR, LANES};
use netloom_ir::kernel::{
    AxisId, Bind, Buffer, BufferId, Combine, Expr, ExprId, LocalId, Nest, Prim, Product, Role, Stmt,
};
use rspirv::dr::Module;
use rspirv::spirv::{BuiltIn, Capability, ExecutionMode, Op, Word};
use smallvec::smallvec;

use super::Error;
use super::device::Traits;
use super::spirv::{Kind, Writer};
use crate::device::Floats;
use crate::hoist::{Hoist, Known, Writes};
use crate::place::{Guard, Place, Places, Unit};
use crate::plan::alias;
use fours::Four;
use group::Items;
use prim::{Prims, memory, register};

mod fma;
mod fours;
mod group;
mod matrices;
pub mod prim;
mod product;

/// The part of a kernel between two barriers.
pub struct Phase {
    /// The module.
    pub module: Module,
    /// How many invocations have something to do.
    pub invocations: u64,
    /// How many make a workgroup.
    pub group: u32,
    /// The buffers that it reads or writes, each with whether it writes.
    pub touched: Vec<(usize, bool)>,
}

/// Invocations in a workgroup: 64, which every device takes, a guess that few and many groups share the device well; fewer where there would
/// not be 16 groups.
fn group(invocations: u64) -> u32 {
    let shared = (invocations / 16).clamp(8, 64) as u32;
    1 << shared.ilog2()
}

/// The modules of a nest for a device.
///
/// # Errors
/// If the device lacks a type that the nest computes with.
pub fn emit(nest: &Nest, traits: &Traits) -> Result<Vec<Phase>, Error> {
    let (bindings, views) = (bindings(nest, traits), views(nest, traits));
    let fours = fours::of(nest, traits);
    phases(nest)
        .map(|body| match body {
            [Stmt::Product(product)] => Ok(match nest.buffers[product.a.buffer.at()].ty.dtype {
                DType::F16 => matrices::emit(nest, product, &bindings, traits),
                _ => product::emit(product, &bindings, &views, traits),
            }),
            _ => emit_phase(nest, body, &bindings, &views, &fours, traits),
        })
        .collect()
}

fn phases(nest: &Nest) -> impl Iterator<Item = &[Stmt]> {
    let phases = nest.body.split(|stmt| matches!(stmt, Stmt::Barrier));
    phases.filter(|body| !body.is_empty())
}

/// The bytes of a buffer: worker scratch has a copy for each invocation.
pub fn bytes(nest: &Nest, buffer: &Buffer) -> u64 {
    let copies = match buffer.role {
        Role::WorkerScratch => phases(nest).map(|body| invocations(nest, body)).max().unwrap_or(0),
        Role::GroupScratch => 0,
        _ => 1,
    };
    buffer.ty.len_bytes() as u64 * copies
}

/// The bindings of each buffer: one, or for what is larger than a device binds at once, as many windows as it takes wherever in the first one
/// the tensor begins.
pub fn bindings(nest: &Nest, traits: &Traits) -> Vec<Range<u32>> {
    let mut next = 0;
    let mut take = |count: u32| {
        next += count;
        next - count..next
    };
    let windows = |buffer: &Buffer| match bytes(nest, buffer) + traits.binding_alignment {
        _ if buffer.role == Role::GroupScratch => 0,
        bytes if bytes <= traits.tensor_bytes => 1,
        bytes => bytes.div_ceil(traits.window_bytes()) as u32,
    };
    nest.buffers.iter().map(|buffer| take(windows(buffer))).collect()
}

/// The bindings of a buffer's views as texels, if it has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Views {
    /// One element each: where a phase only reads the buffer, it is read through that.
    pub one: Option<u32>,
    /// Four elements each, for the shader of matrix products and for sums of neighbours.
    pub four: Option<u32>,
}

/// The views of each buffer.
///
/// An operand over which an output may lie has none: reads and writes of one element would take different ways.
pub fn views(nest: &Nest, traits: &Traits) -> Vec<Views> {
    let bindings = bindings(nest, traits);
    let fours = fours::of(nest, traits);
    let mut next = bindings.last().map_or(0, |last| last.end);
    let mut take = |is_viewed: bool| {
        next += u32::from(is_viewed);
        is_viewed.then(|| next - 1)
    };
    let view = |(at, buffer): (usize, &Buffer)| {
        let bytes = bytes(nest, buffer) + traits.binding_alignment;
        let may_be_written = (0..nest.buffers.len())
            .any(|other| nest.buffers[other].role == Role::Output && alias::in_place(nest, at, other));
        let is_viewed = buffer.ty.dtype == DType::F32
            && buffer.role != Role::WorkerScratch
            && bindings[at].len() == 1
            && bytes / size_of::<f32>() as u64 <= traits.texels
            && !may_be_written;
        let is_multiplied = nest.body.iter().any(|stmt| match stmt {
            Stmt::Product(Product { a, b, .. }) => {
                let mut sides = [a, b].into_iter();
                sides.any(|side| side.buffer.at() == at && side.fours.is_some())
            }
            _ => false,
        });
        Views {
            one: take(is_viewed),
            four: take(is_multiplied || is_viewed && fours.iter().any(|four| four.buffer.at() == at)),
        }
    };
    nest.buffers.iter().enumerate().map(view).collect()
}

fn emit_phase(
    nest: &Nest,
    body: &[Stmt],
    bindings: &[Range<u32>],
    views: &[Views],
    fours: &[Four],
    traits: &Traits,
) -> Result<Phase, Error> {
    let invocations = invocations(nest, body);
    let mut w = Writer::empty();
    let push = w.push_constants(nest.buffers.len().max(1) as u32);
    let number = w.group_number();
    let item = w.input(BuiltIn::LocalInvocationId, 0);
    let items = Items::of(nest, body, &mut w);
    let group = items.as_ref().map_or_else(|| group(invocations), Items::size);
    let size = w.u32(group);
    let first = w.op(Op::IMul, Kind::U32, &[number, size]);
    let worker = w.op(Op::IAdd, Kind::U32, &[first, item]);
    let mut cx = Cx {
        w,
        traits,
        nest: nest.clone(),
        places: Places::new(nest, Unit::Elements),
        facts: Known::default(),
        narrow: Vec::new(),
        bindings,
        views,
        fours,
        buffers: nest.buffers.iter().map(|_| None).collect(),
        push,
        worker,
        workers: invocations,
        items,
        shared_bytes: 0,
        locals: vec![None; nest.locals.len()],
        axes: vec![None; nest.axes.len()],
        known: HashMap::new(),
        trail: Vec::new(),
        reads_locals: false,
    };
    // Loads of bases stand in the first block, where all that follows sees them.
    let written = Writes::of(body);
    let touched = touched(nest, body);
    for &buffer in &touched {
        cx.declare(buffer, &written);
    }
    let limit = cx.w.constant(Kind::U32, invocations);
    let is_worker = cx.w.op(Op::ULessThan, Kind::Bool, &[worker, limit]);
    cx.emit_choice(is_worker, |cx| cx.emit_body(body), |_| {});
    let kernel = || format!("kernel `{}`", nest.name);
    let over = [
        (
            u64::from(group),
            u64::from(traits.group),
            "the invocations of a workgroup of",
            "maxComputeWorkGroupInvocations",
        ),
        (
            cx.shared_bytes,
            u64::from(traits.shared_bytes),
            "what workgroups share in",
            "maxComputeSharedMemorySize",
        ),
    ];
    if let Some(&(size, limit, what, name)) = over.iter().find(|(size, limit, ..)| size > limit) {
        return Err(Error::OverLimit {
            what: format!("{what} {}", kernel()),
            size,
            limit,
            name,
        });
    }
    let lacks = |kind, has: bool, name: &'static str| (cx.w.uses(kind) && !has).then_some(name);
    let lacking = [
        lacks(Kind::U64, traits.int64, "64-bit integers (shaderInt64)"),
        lacks(Kind::F64, traits.float64, "64-bit floats (shaderFloat64)"),
        lacks(
            Kind::U16,
            traits.storage16,
            "16-bit elements in memory (storageBuffer16BitAccess)",
        ),
        lacks(
            Kind::U8,
            traits.storage8,
            "8-bit elements in memory (storageBuffer8BitAccess)",
        ),
    ];
    if let Some(what) = lacking.into_iter().flatten().next() {
        return Err(Error::Lacks {
            kernel: nest.name.clone(),
            what,
        });
    }
    let modes: Vec<_> = [(Kind::F16, 16), (Kind::F32, 32), (Kind::F64, 64)]
        .into_iter()
        .filter(|&(kind, _)| cx.w.uses(kind))
        .flat_map(|(kind, bits)| modes(traits.floats(kind)).map(move |(mode, capability)| (mode, capability, bits)))
        .collect();
    Ok(Phase {
        module: cx.w.finish(group, &modes),
        invocations,
        group,
        touched: touched
            .iter()
            .filter(|buffer| nest.buffers[buffer.at()].role != Role::GroupScratch)
            .map(|buffer| (buffer.at(), written.buffers.contains(buffer)))
            .collect(),
    })
}

/// How a module demands what a device promises of floats, with the capabilities that it needs.
fn modes(floats: Floats) -> impl Iterator<Item = (ExecutionMode, Capability)> {
    let all = [
        (
            floats.nearest,
            ExecutionMode::RoundingModeRTE,
            Capability::RoundingModeRTE,
        ),
        (
            floats.least == 0.0,
            ExecutionMode::DenormPreserve,
            Capability::DenormPreserve,
        ),
        (
            floats.specials,
            ExecutionMode::SignedZeroInfNanPreserve,
            Capability::SignedZeroInfNanPreserve,
        ),
    ];
    let promised = all.into_iter().filter(|(promised, ..)| *promised);
    promised.map(|(_, mode, capability)| (mode, capability))
}

/// The most iterations of a `Workers` loop in a phase, or invocations of a `Group` loop's.
fn invocations(nest: &Nest, body: &[Stmt]) -> u64 {
    let each = body.iter().map(|stmt| match stmt {
        Stmt::Loop {
            axis,
            bind: Bind::Workers,
            ..
        } => nest.axes[axis.at()].extent as u64,
        Stmt::Loop {
            axis,
            bind: Bind::Group,
            body,
            ..
        } => {
            let items = group::extents(nest, body).into_iter().map(u64::from);
            items.fold(nest.axes[axis.at()].extent as u64, u64::saturating_mul)
        }
        Stmt::Loop { body, .. } => invocations(nest, body),
        Stmt::If { then, otherwise, .. } => invocations(nest, then).max(invocations(nest, otherwise)),
        _ => 0,
    });
    each.max().unwrap_or(0)
}

/// The buffers that a phase reads or writes.
fn touched(nest: &Nest, body: &[Stmt]) -> Vec<BufferId> {
    let mut buffers = HashSet::new();
    let mut seen = HashSet::new();
    let mut open = Vec::new();
    roots(body, &mut |root| match root {
        Root::Value(id) => open.push(id),
        Root::Element(buffer, index) => {
            buffers.insert(buffer);
            open.extend(index);
        }
    });
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(nest.exprs.operands(id));
            if let Expr::Load { buffer, .. } = nest.exprs.get(id) {
                buffers.insert(*buffer);
            }
        }
    }
    let mut buffers: Vec<BufferId> = buffers.into_iter().collect();
    buffers.sort();
    buffers
}

/// Something that a statement evaluates.
enum Root<'a> {
    Value(ExprId),
    /// The address of an element to be written.
    Element(BufferId, &'a [ExprId]),
}

/// Everything that statements evaluate.
fn roots<'a>(body: &'a [Stmt], visit: &mut impl FnMut(Root<'a>)) {
    for stmt in body {
        match stmt {
            Stmt::Loop { extent, body, .. } => {
                visit(Root::Value(*extent));
                roots(body, visit);
            }
            Stmt::If {
                condition,
                then,
                otherwise,
            } => {
                visit(Root::Value(*condition));
                roots(then, visit);
                roots(otherwise, visit);
            }
            Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => visit(Root::Value(*value)),
            Stmt::Store { buffer, index, value } => {
                visit(Root::Value(*value));
                visit(Root::Element(*buffer, index));
            }
            Stmt::Prefetch { .. } | Stmt::Contract(_) | Stmt::Product(_) | Stmt::Barrier => {}
        }
    }
}

/// Something computed, available from here to the end of the enclosing body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The value of an expression.
    Value(ExprId),
    /// The index of a tensor's first element, and a sum of steps.
    Pointer(BufferId, ExprId),
}

/// A buffer that a module declares.
struct Declared {
    /// The array, if a workgroup shares it.
    shared: Option<Word>,
    /// The variable of its texels, if it is read as such, or one for each binding.
    texels: Option<Word>,
    /// The variable of its texels of four elements.
    fours: Option<Word>,
    windows: Vec<Word>,
    /// The index of the tensor's first element.
    base: Word,
}

/// A module in the making.
struct Cx<'a> {
    w: Writer,
    traits: &'a Traits,
    /// The nest, with further expressions for addresses.
    nest: Nest,
    places: Places,
    /// By expression, as far as they are known.
    facts: Known,
    /// Whether a 64-bit integer expression is held in 32 bits, of which it is the sign extension; as far as known.
    narrow: Vec<bool>,
    /// By buffer, the bindings it has, and those of its views.
    bindings: &'a [Range<u32>],
    views: &'a [Views],
    /// What loops may read four at a time.
    fours: &'a [Four],
    buffers: Vec<Option<Declared>>,
    push: Word,
    worker: Word,
    workers: u64,
    /// The invocations of a workgroup, if they work together.
    items: Option<Items>,
    /// What a workgroup shares so far.
    shared_bytes: u64,
    locals: Vec<Option<Word>>,
    /// The values of the axes whose loops are around us.
    axes: Vec<Option<Word>>,
    known: HashMap<Key, Word>,
    /// What was added to `known`, in order, so that the end of a body can take it back.
    trail: Vec<Key>,
    /// Whether anything ever known depends on a register.
    reads_locals: bool,
}

impl Hoist for Cx<'_> {
    fn parts(&mut self) -> (&mut Nest, &mut Places, &mut Known) {
        (&mut self.nest, &mut self.places, &mut self.facts)
    }

    fn known(&self) -> &Known {
        &self.facts
    }

    fn is_bound(&self, axis: AxisId) -> bool {
        self.axes[axis.at()].is_some()
    }

    fn compute(&mut self, id: ExprId) {
        self.value(id);
    }

    fn compute_pointer(&mut self, place: &Place) {
        self.outer_pointer(place);
    }
}

impl Cx<'_> {
    fn prims(&mut self) -> Prims<'_> {
        Prims {
            w: &mut self.w,
            traits: self.traits,
        }
    }

    fn declare(&mut self, buffer: BufferId, written: &Writes) {
        if self.nest.buffers[buffer.at()].role == Role::GroupScratch {
            return self.declare_shared(buffer);
        }
        let kind = memory(self.nest.buffers[buffer.at()].ty.dtype, self.traits);
        let writable = written.buffers.contains(&buffer);
        let Views { one, four } = self.views[buffer.at()];
        let [texels, fours] = [one, four].map(|view| Some(self.w.texels(view.filter(|_| !writable)?)));
        let windows = match texels {
            Some(_) => Vec::new(),
            None => (self.bindings[buffer.at()].clone())
                .map(|binding| self.w.storage(binding, kind, writable))
                .collect(),
        };
        let base = self.w.push_constant(self.push, buffer.0);
        self.buffers[buffer.at()] = Some(Declared {
            shared: None,
            texels,
            fours,
            windows,
            base,
        });
    }

    fn declared(&self, buffer: BufferId) -> &Declared {
        self.buffers[buffer.at()]
            .as_ref()
            .expect("every buffer touched is declared")
    }

    fn emit_body(&mut self, body: &[Stmt]) {
        let is_store = |stmt: &Stmt| matches!(stmt, Stmt::Store { .. });
        for group in body.chunk_by(|a, b| is_store(a) && is_store(b)) {
            match &group[0] {
                Stmt::Loop {
                    axis,
                    extent,
                    bind,
                    body,
                } => self.emit_loop(*axis, *extent, *bind, body),
                Stmt::If {
                    condition,
                    then,
                    otherwise,
                } => self.emit_if(*condition, then, otherwise),
                Stmt::Set { local, value } => self.emit_set(*local, *value),
                Stmt::Accumulate { local, with, value } => self.emit_accumulate(*local, *with, *value),
                Stmt::Store { .. } => self.emit_stores(group),
                Stmt::Prefetch { .. } => {}
                Stmt::Contract(_) => unreachable!("schedules for GPUs have no tiles"),
                Stmt::Product(_) => unreachable!("a product is a phase of its own"),
                Stmt::Barrier => self.emit_barrier(),
            }
        }
    }

    fn emit_loop(&mut self, axis: AxisId, extent: ExprId, bind: Bind, body: &[Stmt]) {
        let writes = Writes::of(body);
        self.forget(&writes);
        let constant = self.nest.exprs.as_int(extent);
        match (bind, constant) {
            (_, Some(..=0)) => {}
            (Bind::Unroll, Some(extent)) => {
                self.hoist(body, &writes, true);
                for at in 0..extent {
                    let value = self.w.u32(at as u32);
                    self.emit_iteration(axis, value, |cx| cx.emit_body(body));
                }
            }
            (Bind::Workers, _) => {
                let extent = self.index(extent);
                let worker = self.worker;
                let has_share = self.w.op(Op::SLessThan, Kind::Bool, &[worker, extent]);
                self.emit_choice(
                    has_share,
                    |cx| cx.emit_iteration(axis, worker, |cx| cx.emit_body(body)),
                    |_| {},
                );
            }
            (Bind::Lanes, _) => self.emit_lanes(axis, extent, body, &writes),
            (Bind::Group, _) => self.emit_group(axis, body),
            (Bind::Item(dimension), _) => self.emit_item(axis, dimension, body, &writes),
            (Bind::Serial | Bind::Unroll, _) => {
                self.hoist(body, &writes, constant.is_some());
                let fours = self.fours_of(axis, body);
                let again = self.enter_again();
                let each = |cx: &mut Self| {
                    let extent = cx.index(extent);
                    cx.emit_range(extent, |cx, at| cx.emit_iteration(axis, at, |cx| cx.emit_body(body)));
                };
                match constant {
                    Some(extent) if fours::has_fours(extent) && !fours.is_empty() => {
                        // All tensors of a program begin at multiples of four elements but parts of others.
                        let is_aligned = self.begin_at_fours(&fours);
                        self.emit_choice(is_aligned, |cx| cx.emit_fours(axis, extent as u32, body, &fours), each);
                    }
                    _ => each(self),
                }
                self.leave_again(again);
            }
        }
        self.forget(&writes);
    }

    /// The loads that a loop over an axis may do four at a time, of what this phase only reads.
    fn fours_of(&self, axis: AxisId, body: &[Stmt]) -> Vec<Four> {
        let [Stmt::Accumulate { value, .. }] = body else {
            return Vec::new();
        };
        let fours = self
            .fours
            .iter()
            .filter(|four| (four.axis, four.value) == (axis, *value));
        let is_read = |four: &&Four| self.declared(four.buffer).fours.is_some();
        fours.filter(is_read).copied().collect()
    }

    /// Whether the tensors begin at multiples of four elements.
    fn begin_at_fours(&mut self, fours: &[Four]) -> Word {
        let mut all = self.w.u32(0);
        for four in fours {
            let base = self.declared(four.buffer).base;
            all = self.w.op(Op::BitwiseOr, Kind::U32, &[all, base]);
        }
        let mask = self.w.u32(FOUR as u32 - 1);
        let rest = self.w.op(Op::BitwiseAnd, Kind::U32, &[all, mask]);
        let zero = self.w.u32(0);
        self.w.op(Op::IEqual, Kind::Bool, &[rest, zero])
    }

    /// A loop, four iterations at a time, with one fetch for these loads of all four.
    fn emit_fours(&mut self, axis: AxisId, extent: u32, body: &[Stmt], fours: &[Four]) {
        let count = self.w.u32(extent / FOUR as u32);
        self.emit_range(count, |cx, number| {
            let four = cx.w.u32(FOUR as u32);
            let first = cx.w.op(Op::IMul, Kind::U32, &[number, four]);
            let mut read = Vec::new();
            cx.emit_iteration(axis, first, |cx| {
                for four in fours {
                    let place = cx.places.of(&mut cx.nest, four.load);
                    let (index, two) = (cx.pointer(&place), cx.w.u32(FOUR.ilog2()));
                    let index = cx.w.op(Op::ShiftRightLogical, Kind::U32, &[index, two]);
                    let texels = cx.declared(four.buffer).fours.expect("it is declared with them");
                    read.push(cx.w.fetch::<FOUR>(texels, index));
                }
            });
            for lane in 0..FOUR {
                let offset = cx.w.u32(lane as u32);
                let at = cx.w.op(Op::IAdd, Kind::U32, &[first, offset]);
                cx.emit_iteration(axis, at, |cx| {
                    for (four, elements) in fours.iter().zip(&read) {
                        cx.learn(Key::Value(four.load), elements[lane]);
                    }
                    cx.emit_body(body);
                });
            }
        });
    }

    /// A loop from 0 while below `extent`.
    fn emit_range(&mut self, extent: Word, emit: impl FnOnce(&mut Self, Word)) {
        let counting = self.w.begin_loop(extent);
        emit(self, counting.at);
        self.w.end_loop(counting);
    }

    /// Runs `emit` with the axis bound to a value; what it computes is forgotten afterwards.
    fn emit_iteration(&mut self, axis: AxisId, at: Word, emit: impl FnOnce(&mut Self)) {
        self.axes[axis.at()] = Some(at);
        self.emit_scope(emit);
        self.axes[axis.at()] = None;
    }

    /// What is computed in a block is known only there.
    fn emit_scope(&mut self, emit: impl FnOnce(&mut Self)) {
        let mark = self.trail.len();
        emit(self);
        for key in self.trail.drain(mark..) {
            self.known.remove(&key);
        }
    }

    fn emit_choice(&mut self, condition: Word, yes: impl FnOnce(&mut Self), no: impl FnOnce(&mut Self)) {
        let [then, otherwise, end] = std::array::from_fn(|_| self.w.id());
        self.w.merge(end);
        self.w.branch(condition, then, otherwise);
        self.w.begin(then);
        self.emit_scope(yes);
        self.w.jump(end);
        self.w.begin(otherwise);
        self.emit_scope(no);
        self.w.jump(end);
        self.w.begin(end);
    }

    /// The loop of virtual lanes, in order: iteration `i` accumulates into lane `i % LANES`, and the lanes combine pairwise.
    fn emit_lanes(&mut self, axis: AxisId, extent: ExprId, body: &[Stmt], writes: &Writes) {
        let constant = self.nest.exprs.as_int(extent);
        self.hoist(body, writes, constant.is_some());
        let extent = self.index(extent);
        let accumulations: Vec<Lanes> = body
            .iter()
            .filter_map(|stmt| match *stmt {
                Stmt::Accumulate { local, with, value } => Some((local, with, value)),
                _ => None,
            })
            .map(|(local, with, value)| {
                let dtype = self.nest.locals[local.at()].dtype;
                let kind = register(dtype, self.traits);
                let lanes = self.w.local_array(kind, LANES as u32);
                let identity = self.prims().emit_const(dtype, with.identity(dtype).to_bits(dtype));
                for lane in 0..LANES as u32 {
                    let lane = self.w.u32(lane);
                    let address = self.w.local_element(lanes, kind, lane);
                    self.w.store(address, identity);
                }
                Lanes {
                    local,
                    with,
                    value,
                    dtype,
                    lanes,
                }
            })
            .collect();
        let stores: Vec<Stmt> = body
            .iter()
            .filter(|stmt| matches!(stmt, Stmt::Store { .. }))
            .cloned()
            .collect();
        self.emit_range(extent, |cx, at| {
            cx.emit_iteration(axis, at, |cx| {
                for lanes in &accumulations {
                    let value = cx.full(lanes.value);
                    let mask = cx.w.u32(LANES as u32 - 1);
                    let lane = cx.w.op(Op::BitwiseAnd, Kind::U32, &[at, mask]);
                    let address = cx.w.local_element(lanes.lanes, register(lanes.dtype, cx.traits), lane);
                    cx.combine_at(address, lanes.with, lanes.dtype, value);
                }
                if !stores.is_empty() {
                    cx.emit_stores(&stores);
                }
            });
        });
        for lanes in accumulations {
            let kind = register(lanes.dtype, self.traits);
            let mut values: Vec<Word> = (0..LANES as u32)
                .map(|lane| {
                    let lane = self.w.u32(lane);
                    let address = self.w.local_element(lanes.lanes, kind, lane);
                    self.w.load(kind, address)
                })
                .collect();
            while values.len() > 1 {
                let upper = values.split_off(values.len() / 2);
                for (value, other) in values.iter_mut().zip(upper) {
                    *value = self.prims().emit_combine(lanes.with, lanes.dtype, *value, other);
                }
            }
            let address = self.local(lanes.local);
            self.combine_at(address, lanes.with, lanes.dtype, values[0]);
        }
    }

    fn emit_if(&mut self, condition: ExprId, then: &[Stmt], otherwise: &[Stmt]) {
        let condition = self.value(condition);
        self.emit_choice(condition, |cx| cx.emit_body(then), |cx| cx.emit_body(otherwise));
    }

    /// The variable of a register.
    fn local(&mut self, local: LocalId) -> Word {
        let kind = register(self.nest.locals[local.at()].dtype, self.traits);
        *self.locals[local.at()].get_or_insert_with(|| self.w.local(kind))
    }

    fn emit_set(&mut self, local: LocalId, value: ExprId) {
        let value = self.full(value);
        let address = self.local(local);
        self.w.store(address, value);
        self.forget(&Writes {
            locals: smallvec![local],
            ..Writes::default()
        });
    }

    fn emit_accumulate(&mut self, local: LocalId, with: Combine, value: ExprId) {
        let value = self.full(value);
        let address = self.local(local);
        let dtype = self.nest.locals[local.at()].dtype;
        self.combine_at(address, with, dtype, value);
        self.forget(&Writes {
            locals: smallvec![local],
            ..Writes::default()
        });
    }

    fn combine_at(&mut self, address: Word, with: Combine, dtype: DType, value: Word) {
        let state = self.w.load(register(dtype, self.traits), address);
        let combined = self.prims().emit_combine(with, dtype, state, value);
        self.w.store(address, combined);
    }

    /// Neighbouring stores: all are evaluated before any writes. What several invocations would write, one does.
    fn emit_stores(&mut self, stores: &[Stmt]) {
        match self.is_first() {
            Some(is_first) => self.emit_choice(is_first, |cx| cx.emit_own_stores(stores), |_| {}),
            None => self.emit_own_stores(stores),
        }
        self.forget(&Writes::of(stores));
    }

    fn emit_own_stores(&mut self, stores: &[Stmt]) {
        let mut writes = Vec::new();
        for stmt in stores {
            let Stmt::Store { buffer, index, value } = stmt else {
                unreachable!("a group of stores")
            };
            let dtype = self.nest.buffers[buffer.at()].ty.dtype;
            let value = self.full(*value);
            let element = match self.declared(*buffer).shared {
                Some(_) => value,
                None => self.prims().emit_pack(dtype, value),
            };
            let place = self.store_place(*buffer, index);
            let index = self.pointer(&place);
            writes.push((*buffer, index, element));
        }
        for (buffer, index, element) in writes {
            self.store_element(buffer, index, element);
        }
    }

    fn store_place(&mut self, buffer: BufferId, index: &[ExprId]) -> Place {
        let dtype = self.nest.buffers[buffer.at()].ty.dtype;
        let element = self.nest.exprs.load(buffer, dtype, index, false);
        self.places.of(&mut self.nest, element)
    }

    /// The element at an index from where a buffer's first binding begins.
    fn load_element(&mut self, buffer: BufferId, index: Word) -> Word {
        if let Some(address) = self.shared_element(buffer, index) {
            let kind = register(self.nest.buffers[buffer.at()].ty.dtype, self.traits);
            return self.w.load(kind, address);
        }
        let kind = memory(self.nest.buffers[buffer.at()].ty.dtype, self.traits);
        let index = self.own_index(buffer, index);
        if let Some(texels) = self.declared(buffer).texels {
            let [element] = self.w.fetch(texels, index);
            return element;
        }
        let windows = self.declared(buffer).windows.clone();
        if let [window] = windows[..] {
            let address = self.w.element(window, kind, index);
            return self.w.load(kind, address);
        }
        let found = self.w.local(kind);
        self.emit_windows(buffer, &windows, index, |cx, address| {
            let element = cx.w.load(kind, address);
            cx.w.store(found, element);
        });
        self.w.load(kind, found)
    }

    /// Writes that element.
    fn store_element(&mut self, buffer: BufferId, index: Word, element: Word) {
        if let Some(address) = self.shared_element(buffer, index) {
            return self.w.store(address, element);
        }
        let kind = memory(self.nest.buffers[buffer.at()].ty.dtype, self.traits);
        let index = self.own_index(buffer, index);
        let windows = self.declared(buffer).windows.clone();
        if let [window] = windows[..] {
            let address = self.w.element(window, kind, index);
            return self.w.store(address, element);
        }
        self.emit_windows(buffer, &windows, index, |cx, address| cx.w.store(address, element));
    }

    /// Does something with the address in whichever window the element lies.
    fn emit_windows(&mut self, buffer: BufferId, windows: &[Word], index: Word, emit: impl Fn(&mut Self, Word)) {
        let dtype = self.nest.buffers[buffer.at()].ty.dtype;
        let elements = self.traits.window_bytes() / dtype.size_bytes() as u64;
        let shift = self.w.u32(elements.ilog2());
        let mask = self.w.u32((elements - 1) as u32);
        let window = self.w.op(Op::ShiftRightLogical, Kind::U32, &[index, shift]);
        let within = self.w.op(Op::BitwiseAnd, Kind::U32, &[index, mask]);
        for (number, &variable) in windows.iter().enumerate() {
            let number = self.w.u32(number as u32);
            let is_here = self.w.op(Op::IEqual, Kind::Bool, &[window, number]);
            self.emit_choice(
                is_here,
                |cx| {
                    let address = cx.w.element(variable, memory(dtype, cx.traits), within);
                    emit(cx, address);
                },
                |_| {},
            );
        }
    }

    /// An index into the invocation's own copy, if a buffer has one for each.
    fn own_index(&mut self, buffer: BufferId, index: Word) -> Word {
        if self.nest.buffers[buffer.at()].role != Role::WorkerScratch {
            return index;
        }
        let workers = self.w.constant(Kind::U32, self.workers);
        let row = self.w.op(Op::IMul, Kind::U32, &[index, workers]);
        self.w.op(Op::IAdd, Kind::U32, &[row, self.worker])
    }

    // Expressions.

    /// The value of an expression, here; computed if it is not known. Operands come first, without recursion: chains are long.
    fn value(&mut self, wanted: ExprId) -> Word {
        let mut stack = vec![(wanted, false)];
        while let Some((id, ready)) = stack.pop() {
            if self.known.contains_key(&Key::Value(id)) {
                continue;
            }
            if ready {
                let value = self.emit_expr(id);
                self.learn(Key::Value(id), value);
                continue;
            }
            stack.push((id, true));
            let operands = self.operands(id);
            stack.extend(operands.into_iter().rev().map(|operand| (operand, false)));
        }
        self.known[&Key::Value(wanted)]
    }

    /// The value in the register of its type.
    fn full(&mut self, id: ExprId) -> Word {
        let value = self.value(id);
        self.widen(id, value)
    }

    fn widen(&mut self, id: ExprId, value: Word) -> Word {
        if self.is_narrow(id) {
            self.prims().resize(DType::I32, Kind::U64, value)
        } else {
            value
        }
    }

    /// An integer that is an index or a count, in 32 bits.
    fn index(&mut self, id: ExprId) -> Word {
        let value = self.value(id);
        if self.is_narrow(id) {
            value
        } else {
            self.prims().resize(DType::I64, Kind::U32, value)
        }
    }

    /// Emits an expression whose operands are known.
    fn emit_expr(&mut self, id: ExprId) -> Word {
        let dtype = self.nest.exprs.dtype(id);
        match self.nest.exprs.get(id).clone() {
            Expr::Const(_, bits) if self.is_narrow(id) => self.w.u32(bits as u32),
            Expr::Const(dtype, bits) => self.prims().emit_const(dtype, bits),
            Expr::Axis(axis) => self.axes[axis.at()].expect("an axis is used inside its loop"),
            Expr::Local(local, _) => {
                let address = self.local(local);
                self.w.load(register(dtype, self.traits), address)
            }
            Expr::Load { .. } => self.emit_load(id, dtype),
            Expr::Prim(prim, dtype, args) => self.emit_prim(id, prim, dtype, &args),
            Expr::Fold { .. } => unreachable!("a nest has no folds"),
        }
    }

    fn emit_prim(&mut self, id: ExprId, prim: Prim, dtype: DType, args: &[ExprId]) -> Word {
        let from = self.nest.exprs.dtype(args[0]);
        let values: Vec<Word> = args.iter().map(|arg| self.known[&Key::Value(*arg)]).collect();
        let narrow: Vec<bool> = args.iter().map(|&arg| self.is_narrow(arg)).collect();
        let result = if self.is_narrow(id) { DType::I32 } else { dtype };
        match (prim, result) {
            // The sign extension of 32 bits, read without sign.
            (Prim::Cast, DType::I32) if dtype == DType::U64 => return values[0],
            (Prim::Cast, _) if narrow[0] && from == DType::I64 => {
                return self.prims().emit_prim(prim, result, DType::I32, &values);
            }
            (Prim::Div | Prim::Rem, _) if dtype == DType::I64 => {
                if let Some(by) = self.nest.exprs.as_int(args[1])
                    && by > 0
                {
                    let non_negative = self.nest.exprs.range(args[0]).is_some_and(|(low, _)| low >= 0);
                    let value = if result == DType::I32 {
                        values[0]
                    } else {
                        self.widen(args[0], values[0])
                    };
                    let kind = register(result, self.traits);
                    return self.prims().emit_division_by(prim, kind, value, by, non_negative);
                }
            }
            // Sign extension keeps the order of integers, signed or not.
            (Prim::Eq | Prim::Lt | Prim::Le, _) if narrow.iter().all(|&narrow| narrow) => {
                let as_read = if from == DType::I64 { DType::I32 } else { DType::U32 };
                return self.prims().emit_prim(prim, result, as_read, &values);
            }
            _ => {}
        }
        if result != dtype {
            let from = if prim == Prim::Cast { from } else { result };
            return self.prims().emit_prim(prim, result, from, &values);
        }
        let values: Vec<Word> = args
            .iter()
            .zip(values)
            .map(|(&arg, value)| self.widen(arg, value))
            .collect();
        self.prims().emit_prim(prim, dtype, from, &values)
    }

    /// An element; one outside is read from the tensor's start instead, and replaced by zero.
    fn emit_load(&mut self, id: ExprId, dtype: DType) -> Word {
        let place = self.places.of(&mut self.nest, id);
        let condition = match place.guard {
            Guard::Never => return self.prims().emit_const(dtype, 0),
            Guard::Always => None,
            Guard::Where(condition) => Some(self.value(condition)),
        };
        let mut index = self.pointer(&place);
        if let Some(inside) = condition {
            let base = self.declared(place.buffer).base;
            index = self.w.select(Kind::U32, inside, index, base);
        }
        let element = self.load_element(place.buffer, index);
        let value = match self.declared(place.buffer).shared {
            Some(_) => element,
            None => self.prims().emit_unpack(dtype, element),
        };
        match condition {
            Some(inside) => {
                let zero = self.prims().emit_const(dtype, 0);
                self.w.select(register(dtype, self.traits), inside, value, zero)
            }
            None => value,
        }
    }

    /// The index of a place within its binding.
    fn pointer(&mut self, place: &Place) -> Word {
        let sum = self.outer_pointer(place);
        match place.constant {
            0 => sum,
            constant => {
                let constant = self.w.u32(constant as u32);
                self.w.op(Op::IAdd, Kind::U32, &[sum, constant])
            }
        }
    }

    /// The same without its constant.
    fn outer_pointer(&mut self, place: &Place) -> Word {
        let mut pointer = self.declared(place.buffer).base;
        for step in &place.steps {
            let key = Key::Pointer(place.buffer, step.sum);
            pointer = match self.known.get(&key) {
                Some(&known) => known,
                None => {
                    let add = self.index(step.add);
                    let sum = self.w.op(Op::IAdd, Kind::U32, &[pointer, add]);
                    self.learn(key, sum);
                    sum
                }
            };
        }
        pointer
    }

    /// Whether a 64-bit integer fits into 32 bits, and so does all that it is computed from. Axes always do: `code` takes no more
    /// invocations than that.
    fn is_narrow(&mut self, id: ExprId) -> bool {
        while self.narrow.len() <= id.at() {
            let next = ExprId(self.narrow.len() as u32);
            let exprs = &self.nest.exprs;
            let fits = |id: ExprId| {
                let range = exprs.range(id);
                range.is_some_and(|(low, high)| low >= i32::MIN.into() && high <= i32::MAX.into())
            };
            let narrow = |args: &[ExprId]| {
                let mut wide = args.iter().filter(|arg| exprs.dtype(**arg) == DType::I64);
                wide.all(|arg| self.narrow[arg.at()])
            };
            let known = match exprs.get(next) {
                Expr::Const(DType::I64 | DType::U64, bits) => i32::try_from(*bits as i64).is_ok(),
                Expr::Axis(_) => true,
                Expr::Prim(Prim::Cast, DType::U64, args) => {
                    exprs.dtype(args[0]) == DType::I64 && self.narrow[args[0].at()]
                }
                Expr::Prim(Prim::Cast, DType::I64, args) => {
                    matches!(register(exprs.dtype(args[0]), self.traits), Kind::U32 | Kind::Bool) && fits(next)
                }
                Expr::Prim(Prim::Bitcast, ..) => false,
                Expr::Prim(_, DType::I64, args) => fits(next) && narrow(args),
                _ => false,
            };
            self.narrow.push(known);
        }
        self.narrow[id.at()]
    }

    // What is known, and what may be computed early.

    /// Computes, before a loop is entered, everything in its body that the loop does not change; memory is read only if the loop is known
    /// to be entered.
    fn hoist(&mut self, body: &[Stmt], writes: &Writes, entered: bool) {
        let mut seen = HashSet::new();
        self.hoist_body(body, writes, !entered, &mut seen);
    }

    fn hoist_body(&mut self, body: &[Stmt], writes: &Writes, conditional: bool, seen: &mut HashSet<ExprId>) {
        for stmt in body {
            match stmt {
                Stmt::Loop { extent, body, .. } => {
                    self.hoist_expr(*extent, writes, conditional, seen);
                    let entered = self.nest.exprs.as_int(*extent).is_some_and(|extent| extent > 0);
                    self.hoist_body(body, writes, conditional || !entered, seen);
                }
                Stmt::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    self.hoist_expr(*condition, writes, conditional, seen);
                    self.hoist_body(then, writes, true, seen);
                    self.hoist_body(otherwise, writes, true, seen);
                }
                Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => {
                    self.hoist_expr(*value, writes, conditional, seen);
                }
                Stmt::Store { buffer, index, value } => {
                    self.hoist_expr(*value, writes, conditional, seen);
                    let place = self.store_place(*buffer, index);
                    self.hoist_place(&place, writes, conditional, seen);
                }
                Stmt::Prefetch { .. } | Stmt::Contract(_) | Stmt::Product(_) | Stmt::Barrier => {}
            }
        }
    }

    fn learn(&mut self, key: Key, value: Word) {
        let (Key::Value(id) | Key::Pointer(_, id)) = key;
        if !self.facts(id).locals.is_empty() {
            self.reads_locals = true;
        }
        self.known.insert(key, value);
        self.trail.push(key);
    }

    /// Forgets every value that has changed.
    fn forget(&mut self, writes: &Writes) {
        // Long sums write a register at every term, and nothing that is known reads one.
        if writes.buffers.is_empty() && !writes.barrier && !self.reads_locals {
            return;
        }
        let mut known = std::mem::take(&mut self.known);
        known.retain(|key, _| match *key {
            Key::Value(id) | Key::Pointer(_, id) => !writes.change(self.facts(id)),
        });
        self.known = known;
    }
}

/// The virtual lanes of one accumulation.
struct Lanes {
    local: LocalId,
    with: Combine,
    value: ExprId,
    dtype: DType,
    /// An array of the module's.
    lanes: Word,
}
