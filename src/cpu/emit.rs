//! Nests in CLIF.
//!
//! In: a [`Nest`]. Out: a function of the ABI that [`super`] describes, defined in a module. Nothing is decided here but where values are
//! computed: an expression is emitted before the outermost loop that changes none of what it depends on ([`Cx::hoist`]), so an
//! address is a sum whose outer parts were added outside ([`crate::place`]).
//!
//! Reading order: [`prim`], [`crate::place`], this file, `callees`, `lanes`, `tile`.

use std::rc::Rc;

use cranelift::codegen::Context;
use cranelift::codegen::ir::{BlockArg, UserFuncName};
use cranelift::codegen::isa::{OwnedTargetIsa, TargetIsa};
use cranelift::prelude::types::I64;
use cranelift::prelude::{
    AbiParam, Block, FunctionBuilder, FunctionBuilderContext, InstBuilder, IntCC, MemFlagsData, Signature, Value,
    Variable,
};
use cranelift_module::{FuncId, FuncOrDataId, Linkage, Module, ModuleError};
use hashbrown::{HashMap, HashSet};
use netloom_ir::kernel::{AxisId, Bind, BufferId, Combine, Contract, Expr, ExprId, LocalId, Nest, Operand, Prim, Stmt};
use netloom_ir::{DType, Scalar};
use smallvec::smallvec;

use super::Error;
use super::entry;
use super::isa::{Cpu, Effort, Place as Home};
use super::lanes::Slot;
use super::matrix::Tiles;
use super::tile::Tile;
use crate::cores;
use crate::hoist::{Hoist, Known, Writes};
use crate::place::{Guard, Place, Places, Unit};
use crate::plan::Plan;
use callees::{Callee, Callees, Code};
use compile::{Compiled, compile, define, import};
use prim::{clif_type, emit_combine, emit_const, emit_division_by, emit_pack, emit_prim, emit_unpack, memory_type};

mod callees;
pub(super) mod compile;
mod finish;
mod lanes;
pub mod prim;

mod tile;

/// The function that a barrier calls; see [`super`].
pub const BARRIER: &str = "netloom_barrier";

/// Emits nests into one module, and keeps what they share.
pub struct Emitter {
    cpu: Cpu,
    home: Home,
    /// What functions are compiled for.
    isa: OwnedTargetIsa,
    /// What kernels call; `None` for a body that the level has no code for.
    callees: HashMap<Callee, Option<FuncId>>,
    /// How many there are, by the stem of their symbols.
    numbers: HashMap<&'static str, usize>,
    /// What has been emitted, if it is to be shown.
    listing: Option<Listing>,
}

/// What emitting made, for dumps.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The kernels' functions in Cranelift's language.
    pub clif: String,
    /// The machine code of every function with its symbol.
    pub functions: Vec<(String, Vec<u8>)>,
}

/// What becomes a function of no module yet.
enum Part<'p> {
    Kernel(&'p Nest),
    Entry(&'p Plan),
}

/// A function of no module yet.
struct Spelled {
    code: Compiled,
    /// What it calls, by the numbers in its code, and what it would call if there were code for it.
    callees: Vec<Callee>,
    /// In Cranelift's language, if it is to be shown.
    clif: Option<String>,
}

impl Emitter {
    /// For a module of the architecture that CPU has, into which others may emit for other levels of it.
    ///
    /// # Errors
    /// If there is no code for the CPU.
    pub fn new(cpu: &Cpu, home: Home) -> Result<Emitter, Error> {
        Ok(Emitter {
            cpu: cpu.clone(),
            home,
            isa: cpu.isa(Effort::Speed, home)?,
            callees: HashMap::new(),
            numbers: HashMap::new(),
            listing: None,
        })
    }

    /// From now on remembers what it emits.
    pub fn listed(mut self) -> Emitter {
        self.listing = Some(Listing::default());
        self
    }

    /// What it has emitted since [`Emitter::listed`].
    pub fn listing(&self) -> Option<&Listing> {
        self.listing.as_ref()
    }

    /// The CPU emitted for.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Defines functions that run nests, one each. A function's symbol is the nest's name, with a number if that is taken.
    ///
    /// All cores make their code; what comes out, and in which order, does not depend on that.
    pub fn emit(&mut self, module: &mut dyn Module, nests: &[Nest]) -> Result<Vec<FuncId>, Error> {
        let (kernels, _) = self.emit_parts(module, nests, &[])?;
        Ok(kernels)
    }

    /// The same with a function for each plan of these kernels, under its symbol; gives those of the plans.
    pub fn emit_entries(
        &mut self,
        module: &mut dyn Module,
        nests: &[Nest],
        barrier: FuncId,
        entries: &[(String, &Plan)],
    ) -> Result<Vec<FuncId>, Error> {
        let plans: Vec<&Plan> = entries.iter().map(|(_, plan)| *plan).collect();
        let (kernels, spelled) = self.emit_parts(module, nests, &plans)?;
        let callees: Vec<Option<FuncId>> = [barrier].into_iter().chain(kernels).map(Some).collect();
        let defined = entries.iter().zip(spelled).map(|((symbol, _), mut code)| {
            let signature = barrier_signature(&*self.isa);
            let function = module.declare_function(symbol, Linkage::Local, &signature);
            let function = function.map_err(Error::module)?;
            define(module, function, &mut code, &callees).map_err(Error::module)?;
            Ok(function)
        });
        defined.collect()
    }

    /// Defines the functions of nests, and spells those of plans.
    fn emit_parts(
        &mut self,
        module: &mut dyn Module,
        nests: &[Nest],
        plans: &[&Plan],
    ) -> Result<(Vec<FuncId>, Vec<Compiled>), Error> {
        let callees = Callees::new(&self.cpu, self.home, &*self.isa, has_barrier(module), &self.callees);
        // An entry takes longer than most kernels, so it comes first.
        let parts = plans.iter().map(|plan| Part::Entry(plan));
        let parts: Vec<Part> = parts.chain(nests.iter().map(Part::Kernel)).collect();
        let mut entries = cores::map(&parts, |part| match part {
            Part::Entry(plan) => entry::spell(plan, &*self.isa).map(|code| Spelled {
                code,
                callees: Vec::new(),
                clif: None,
            }),
            Part::Kernel(nest) => spell(nest, &callees, self.listing.is_some()),
        });
        let spelled = entries.split_off(plans.len());
        let mut made = callees.finish();
        let mut kernels = Vec::new();
        for (nest, spelled) in nests.iter().zip(spelled) {
            let name = free_name(module, &nest.name);
            let signature = kernel_signature(&*self.isa);
            let function = module
                .declare_function(&name, Linkage::Local, &signature)
                .map_err(Error::module)?;
            let Spelled { code, callees, clif } = spelled.map_err(|source| Error::kernel(&name, source))?;
            let callees = callees.into_iter().map(|callee| self.callee(module, callee, &mut made));
            let callees = callees.collect::<Result<Vec<_>, _>>()?;
            if let Some((listing, clif)) = self.listing.as_mut().zip(clif) {
                listing.clif += &format!("; {name}\n{clif}\n");
            }
            self.define(module, &name, function, code, &callees)?;
            kernels.push(function);
        }
        let entries = entries.into_iter().map(|spelled| Ok(spelled?.code));
        let entries = entries.collect::<Result<_, ModuleError>>().map_err(Error::module)?;
        Ok((kernels, entries))
    }

    /// The function of a callee, defined if it was not.
    fn callee(
        &mut self,
        module: &mut dyn Module,
        callee: Callee,
        made: &mut HashMap<Callee, Code>,
    ) -> Result<Option<FuncId>, Error> {
        if let Some(&function) = self.callees.get(&callee) {
            return Ok(function);
        }
        let signature = callee.signature(&*self.isa, &self.cpu);
        let function = if callee == Callee::Barrier {
            let function = module.declare_function(BARRIER, Linkage::Import, &signature);
            Some(function.map_err(Error::module)?)
        } else {
            let number = self.numbers.entry(callee.stem()).or_default();
            let name = format!("{}_{number}", callee.stem());
            *number += 1;
            let code = made.remove(&callee).expect("what a kernel calls was made with it");
            match code {
                None => None,
                Some(code) => {
                    let name = free_name(module, &name);
                    let function = module.declare_function(&name, Linkage::Local, &signature);
                    let function = function.map_err(Error::module)?;
                    let code = code.map_err(|source| Error::kernel(&name, source))?;
                    self.define(module, &name, function, code, &[])?;
                    Some(function)
                }
            }
        };
        self.callees.insert(callee, function);
        Ok(function)
    }

    /// Defines a function that is declared and calls these.
    fn define(
        &mut self,
        module: &mut dyn Module,
        name: &str,
        function: FuncId,
        mut code: Compiled,
        callees: &[Option<FuncId>],
    ) -> Result<(), Error> {
        define(module, function, &mut code, callees).map_err(|source| Error::kernel(name, source))?;
        if let Some(listing) = &mut self.listing {
            listing.functions.push((name.to_owned(), code.code));
        }
        Ok(())
    }
}

/// Whether a module has a barrier of its own.
fn has_barrier(module: &dyn Module) -> bool {
    let Some(FuncOrDataId::Func(barrier)) = module.get_name(BARRIER) else {
        return false;
    };
    module.declarations().get_function_decl(barrier).linkage.is_final()
}

/// The signature of every kernel: buffers, call, worker, workers.
pub fn kernel_signature(isa: &dyn TargetIsa) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params.extend([I64; 4].map(AbiParam::new));
    signature
}

/// The signature of [`BARRIER`], and of entries: call, worker, workers.
pub fn barrier_signature(isa: &dyn TargetIsa) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params.extend([I64; 3].map(AbiParam::new));
    signature
}

/// A contraction without the places of its operands.
fn tile_of(contract: &Contract) -> Tile {
    Tile {
        dtype: contract.dtype,
        rows: contract.rows,
        columns: contract.columns,
        k: contract.k.clone(),
        a_rows: (0..contract.rows).map(|row| contract.a.row(row)).collect(),
        a_along: contract.a.along.clone(),
        b_along: contract.b.along.clone(),
        c_across: contract.c.across,
        accumulate: contract.accumulate,
        ahead: contract.ahead,
    }
}

fn free_name(module: &dyn Module, name: &str) -> String {
    if module.get_name(name).is_none() {
        return name.to_string();
    }
    (2..)
        .map(|number| format!("{name}_{number}"))
        .find(|name| module.get_name(name).is_none())
        .expect("numbers do not end")
}

/// Makes the code of a nest.
fn spell(nest: &Nest, callees: &Callees, is_listed: bool) -> Result<Spelled, ModuleError> {
    let mut context = Context::new();
    let mut functions = FunctionBuilderContext::new();
    context.func.name = UserFuncName::testcase(&nest.name);
    context.func.signature = kernel_signature(callees.isa);
    let mut builder = FunctionBuilder::new(&mut context.func, &mut functions);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let &[buffers, call, worker, workers] = builder.block_params(entry) else {
        unreachable!("a kernel has four parameters")
    };
    let locals = nest
        .locals
        .iter()
        .map(|local| builder.declare_var(clif_type(local.dtype)))
        .collect();
    let mut cx = Cx {
        builder,
        callees,
        called: Vec::new(),
        nest: nest.clone(),
        places: Places::new(nest, Unit::Bytes),
        facts: Known::default(),
        buffers,
        call,
        worker,
        workers,
        locals,
        axes: vec![None; nest.axes.len()],
        known: HashMap::new(),
        trail: Vec::new(),
        vectors: HashMap::new(),
        joined: HashSet::new(),
        operands: None,
    };
    let in_pieces = nest.has_pieces();
    cx.load_bases();
    if in_pieces {
        cx.emit_unit(Callee::Configure);
    }
    cx.join_tiles(&nest.body, &nest.body);
    cx.emit_body(&nest.body);
    if in_pieces {
        cx.emit_unit(Callee::Release);
    }
    cx.builder.ins().return_(&[]);
    cx.builder.seal_all_blocks();
    let Cx { builder, called, .. } = cx;
    builder.finalize(callees.isa.frontend_config());
    let clif = is_listed.then(|| context.func.display().to_string());
    Ok(Spelled {
        code: compile(&mut context, callees.isa)?,
        callees: called,
        clif,
    })
}

/// Something computed, available from here to the end of the enclosing body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The value of an expression.
    Value(ExprId),
    /// The address of a tensor's first element.
    Base(BufferId),
    /// That address and a sum of steps.
    Pointer(BufferId, ExprId),
}

/// A function in the making.
struct Cx<'a> {
    builder: FunctionBuilder<'a>,
    callees: &'a Callees<'a>,
    /// What the function calls.
    called: Vec<Callee>,
    /// The nest, with further expressions for addresses.
    nest: Nest,
    places: Places,
    /// By expression, as far as they are known.
    facts: Known,
    buffers: Value,
    call: Value,
    worker: Value,
    workers: Value,
    locals: Vec<Variable>,
    /// The values of the axes whose loops are around us.
    axes: Vec<Option<Value>>,
    known: HashMap<Key, Value>,
    /// What was added to `known`, in order, so that the end of a body can take it back.
    trail: Vec<Key>,
    /// The common code of vector loops, by the axis of their rows and the address of their bodies.
    vectors: HashMap<(Option<AxisId>, usize), Option<Rc<lanes::Vector>>>,
    /// The tiles that are summed where they are finished, by address.
    joined: HashSet<usize>,
    /// Where A, B and C start of the tile that is finished next.
    operands: Option<[Value; 3]>,
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
        self.pointer(place);
    }
}

impl Cx<'_> {
    /// Loads the address of every tensor that the nest touches, in the entry block.
    fn load_bases(&mut self) {
        for at in 0..self.nest.buffers.len() {
            let base = self.builder.ins().load(I64, trusted(), self.buffers, 8 * at as i32);
            self.learn(Key::Base(BufferId(at as u32)), base);
        }
    }

    fn emit_body(&mut self, body: &[Stmt]) {
        for (at, stmt) in body.iter().enumerate() {
            let is_store = |stmt: &Stmt| matches!(stmt, Stmt::Store { .. });
            if is_store(stmt) && (at == 0 || !is_store(&body[at - 1])) {
                let stores = body[at..].iter().take_while(|stmt| is_store(stmt)).count();
                self.read_ahead(&body[at..at + stores]);
            }
            match stmt {
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
                Stmt::Store { buffer, index, value } => self.emit_store(*buffer, index, *value),
                Stmt::Prefetch { .. } => {}
                Stmt::Contract(contract) => self.emit_contract(contract),
                Stmt::Product(_) => unreachable!("schedules for CPUs have no shaders"),
                Stmt::Barrier => self.emit_barrier(),
            }
        }
    }

    fn emit_loop(&mut self, axis: AxisId, extent: ExprId, bind: Bind, body: &[Stmt]) {
        let writes = Writes::of(body);
        self.forget(&writes);
        self.hoist(axis, bind, body, &writes);
        let constant = match self.nest.exprs.as_const(extent) {
            Some(Scalar::Int(extent)) => Some(extent as i64),
            _ => None,
        };
        match (bind, constant) {
            (Bind::Serial | Bind::Workers, Some(0)) => {}
            (Bind::Unroll, Some(extent)) => {
                for at in 0..extent {
                    let value = self.builder.ins().iconst(I64, at);
                    self.emit_iteration(axis, value, |cx| cx.emit_body(body));
                }
            }
            (Bind::Serial | Bind::Unroll | Bind::Group | Bind::Item(_), _) => {
                if let Some((rows, vector)) = self.rows(axis, body) {
                    self.emit_rows(extent, &rows, &vector);
                    return;
                }
                let from = self.builder.ins().iconst(I64, 0);
                let to = self.value(extent);
                self.emit_range(axis, from, to, constant > Some(0), |cx, _| cx.emit_body(body))
            }
            (Bind::Workers, _) => {
                let extent = self.value(extent);
                let (from, to) = self.emit_share(extent);
                self.emit_range(axis, from, to, false, |cx, _| cx.emit_body(body))
            }
            (Bind::Lanes, _) => self.emit_lanes(axis, extent, constant > Some(0), body),
        }
    }

    /// This worker's share of `0 .. extent`, as [`netloom_ir::kernel::nest`] divides it.
    fn emit_share(&mut self, extent: Value) -> (Value, Value) {
        let b = &mut self.builder;
        let one = b.ins().iconst(I64, 1);
        let rounding = b.ins().isub(self.workers, one);
        let padded = b.ins().iadd(extent, rounding);
        let share = b.ins().udiv(padded, self.workers);
        let from = b.ins().imul(share, self.worker);
        let from = min(b, from, extent);
        let to = b.ins().iadd(from, share);
        (from, min(b, to, extent))
    }

    /// A loop over `from .. to`; `entered` if at least one iteration is known to run.
    fn emit_range(&mut self, axis: AxisId, from: Value, to: Value, entered: bool, emit: impl FnOnce(&mut Self, Value)) {
        let block = self.builder.create_block();
        let exit = self.builder.create_block();
        let at = self.builder.append_block_param(block, I64);
        if entered {
            self.builder.ins().jump(block, &[BlockArg::Value(from)]);
        } else {
            let any = self.builder.ins().icmp(IntCC::SignedLessThan, from, to);
            self.builder.ins().brif(any, block, &[BlockArg::Value(from)], exit, &[]);
        }
        self.builder.switch_to_block(block);
        self.emit_iteration(axis, at, |cx| emit(cx, at));
        let one = self.builder.ins().iconst(I64, 1);
        let next = self.builder.ins().iadd(at, one);
        let more = self.builder.ins().icmp(IntCC::SignedLessThan, next, to);
        self.builder
            .ins()
            .brif(more, block, &[BlockArg::Value(next)], exit, &[]);
        self.builder.seal_block(block);
        self.builder.switch_to_block(exit);
        self.builder.seal_block(exit);
    }

    /// Runs `emit` with the axis bound to a value; what it computes is forgotten afterwards.
    fn emit_iteration(&mut self, axis: AxisId, at: Value, emit: impl FnOnce(&mut Self)) {
        let mark = self.trail.len();
        self.axes[axis.at()] = Some(at);
        emit(self);
        self.axes[axis.at()] = None;
        self.rewind(mark);
    }

    fn emit_if(&mut self, condition: ExprId, then: &[Stmt], otherwise: &[Stmt]) {
        let condition = self.value(condition);
        self.emit_either(condition, |cx| cx.emit_body(then), |cx| cx.emit_body(otherwise));
        self.forget(&Writes::of(then));
        self.forget(&Writes::of(otherwise));
    }

    /// One of two pieces of code.
    fn emit_either(&mut self, condition: Value, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let yes = self.builder.create_block();
        let no = self.builder.create_block();
        let end = self.builder.create_block();
        self.builder.ins().brif(condition, yes, &[], no, &[]);
        // What one branch overwrites, the other still knows; below, neither is known.
        let (known, trail) = (self.known.clone(), self.trail.clone());
        self.switch_to(yes);
        then(self);
        self.builder.ins().jump(end, &[]);
        (self.known, self.trail) = (known.clone(), trail.clone());
        self.switch_to(no);
        otherwise(self);
        self.builder.ins().jump(end, &[]);
        (self.known, self.trail) = (known, trail);
        self.switch_to(end);
    }

    /// Goes on in a block that is entered from nowhere else.
    fn switch_to(&mut self, block: Block) {
        self.builder.switch_to_block(block);
        self.builder.seal_block(block);
    }

    fn emit_set(&mut self, local: LocalId, value: ExprId) {
        let value = self.value(value);
        self.set_local(local, value);
    }

    fn emit_accumulate(&mut self, local: LocalId, with: Combine, value: ExprId) {
        let value = self.value(value);
        self.combine_local(local, with, value);
    }

    fn combine_local(&mut self, local: LocalId, with: Combine, value: Value) {
        let state = self.builder.use_var(self.locals[local.at()]);
        let dtype = self.nest.locals[local.at()].dtype;
        let value = emit_combine(&mut self.builder, with, dtype, state, value);
        self.set_local(local, value);
    }

    fn set_local(&mut self, local: LocalId, value: Value) {
        self.builder.def_var(self.locals[local.at()], value);
        self.forget(&Writes {
            locals: smallvec![local],
            ..Writes::default()
        });
    }

    fn emit_store(&mut self, buffer: BufferId, index: &[ExprId], value: ExprId) {
        let dtype = self.nest.buffers[buffer.at()].ty.dtype;
        let value = self.value(value);
        let place = self.store_place(buffer, index);
        let address = self.pointer(&place);
        let element = emit_pack(&mut self.builder, dtype, value);
        let (address, offset) = self.split_offset(address, place.constant);
        self.builder.ins().store(memory(), element, address, offset);
        self.forget(&Writes {
            buffers: smallvec![buffer],
            ..Writes::default()
        });
    }

    fn store_place(&mut self, buffer: BufferId, index: &[ExprId]) -> Place {
        let dtype = self.nest.buffers[buffer.at()].ty.dtype;
        let element = self.nest.exprs.load(buffer, dtype, index, false);
        self.places.of(&mut self.nest, element)
    }

    fn emit_contract(&mut self, contract: &Contract) {
        let start = |cx: &mut Self, operand: &Operand| {
            let start = cx.value(operand.start);
            let dtype = cx.nest.buffers[operand.buffer.at()].ty.dtype;
            let size = cx.builder.ins().iconst(I64, dtype.size_bytes() as i64);
            let offset = cx.builder.ins().imul(start, size);
            let base = cx.known[&Key::Base(operand.buffer)];
            cx.builder.ins().iadd(base, offset)
        };
        let operands = [&contract.a, &contract.b, &contract.c].map(|operand| start(self, operand));
        if self.joined.contains(&std::ptr::from_ref(contract).addr()) {
            self.operands = Some(operands);
            return;
        }
        let callee = match contract.is_in_pieces() {
            true => Callee::Tiles(Tiles::of(contract, &self.nest)),
            false => Callee::Tile(tile_of(contract)),
        };
        let tile = self.callee(callee).expect("every tile has code");
        self.emit_call(tile, &operands);
        self.forget(&Writes {
            buffers: smallvec![contract.c.buffer],
            ..Writes::default()
        });
    }

    /// What the matrix unit is told.
    fn emit_unit(&mut self, callee: Callee) {
        let function = self.callee(callee).expect("the unit's functions have code");
        self.emit_call(function, &[]);
    }

    fn emit_barrier(&mut self) {
        let barrier = self.callee(Callee::Barrier).expect("every module has a barrier");
        self.emit_call(barrier, &[self.call, self.worker, self.workers]);
        self.forget(&Writes {
            barrier: true,
            ..Writes::default()
        });
    }

    /// The number of a function among those that are called, if there is code for it.
    fn callee(&mut self, callee: Callee) -> Option<u32> {
        let number = self.called.iter().position(|called| *called == callee);
        let number = number.unwrap_or_else(|| {
            self.called.push(callee);
            self.called.len() - 1
        });
        let has_code = self.callees.make(&self.called[number]);
        has_code.then_some(number as u32)
    }

    /// Calls the function of that number.
    fn emit_call(&mut self, callee: u32, arguments: &[Value]) {
        let (signature, colocated) = self.callees.declared(&self.called[callee as usize]);
        let function = import(self.builder.func, callee, signature, colocated);
        self.builder.ins().call(function, arguments);
    }

    // Expressions.

    /// The value of an expression, here; computed if it is not known. Operands come first, without recursion: chains are long.
    fn value(&mut self, wanted: ExprId) -> Value {
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
            match self.nest.exprs.get(id) {
                Expr::Axis(_) | Expr::Local(..) | Expr::Const(..) => stack.push((id, true)),
                _ => {
                    stack.push((id, true));
                    let operands = self.operands(id);
                    stack.extend(operands.into_iter().rev().map(|operand| (operand, false)));
                }
            }
        }
        self.known[&Key::Value(wanted)]
    }

    /// Emits an expression whose operands are known.
    fn emit_expr(&mut self, id: ExprId) -> Value {
        let dtype = self.nest.exprs.dtype(id);
        match self.nest.exprs.get(id).clone() {
            Expr::Const(dtype, bits) => emit_const(&mut self.builder, dtype, bits),
            Expr::Axis(axis) => self.axes[axis.at()].expect("an axis is used inside its loop"),
            Expr::Local(local, _) => self.builder.use_var(self.locals[local.at()]),
            Expr::Load { .. } => self.emit_load(id, dtype),
            Expr::Prim(prim, dtype, args) => self.emit_prim(prim, dtype, &args),
            Expr::Fold { .. } => unreachable!("a nest has no folds"),
        }
    }

    fn emit_prim(&mut self, prim: Prim, dtype: DType, args: &[ExprId]) -> Value {
        let values: Vec<Value> = args.iter().map(|arg| self.known[&Key::Value(*arg)]).collect();
        if dtype == DType::I64
            && matches!(prim, Prim::Div | Prim::Rem)
            && let Some(Scalar::Int(by)) = self.nest.exprs.as_const(args[1])
            && by > 0
        {
            let non_negative = self.nest.exprs.range(args[0]).is_some_and(|(low, _)| low >= 0);
            return emit_division_by(&mut self.builder, prim, values[0], by as i64, non_negative);
        }
        let from = self.nest.exprs.dtype(args[0]);
        emit_prim(&mut self.builder, prim, dtype, from, &values)
    }

    /// An element; one outside is read from the tensor's start instead, and replaced by zero.
    fn emit_load(&mut self, id: ExprId, dtype: DType) -> Value {
        let place = self.places.of(&mut self.nest, id);
        let ty = memory_type(dtype);
        match place.guard {
            Guard::Never => emit_const(&mut self.builder, dtype, 0),
            Guard::Always => {
                let address = self.pointer(&place);
                let (address, offset) = self.split_offset(address, place.constant);
                let element = self.builder.ins().load(ty, memory(), address, offset);
                emit_unpack(&mut self.builder, dtype, element)
            }
            Guard::Where(condition) => {
                let inside = self.value(condition);
                let address = self.pointer(&place);
                let offset = self.builder.ins().iconst(I64, place.constant);
                let address = self.builder.ins().iadd(address, offset);
                let base = self.known[&Key::Base(place.buffer)];
                let address = self.builder.ins().select(inside, address, base);
                let element = self.builder.ins().load(ty, memory(), address, 0);
                let value = emit_unpack(&mut self.builder, dtype, element);
                let zero = emit_const(&mut self.builder, dtype, 0);
                self.builder.ins().select(inside, value, zero)
            }
        }
    }

    /// The address of a place, without its constant.
    fn pointer(&mut self, place: &Place) -> Value {
        let mut pointer = self.known[&Key::Base(place.buffer)];
        for step in &place.steps {
            let key = Key::Pointer(place.buffer, step.sum);
            pointer = match self.known.get(&key) {
                Some(&known) => known,
                None => {
                    let add = self.value(step.add);
                    let sum = self.builder.ins().iadd(pointer, add);
                    self.learn(key, sum);
                    sum
                }
            };
        }
        pointer
    }

    /// An address and an offset that an instruction can hold.
    fn split_offset(&mut self, address: Value, offset: i64) -> (Value, i32) {
        match i32::try_from(offset) {
            Ok(offset) => (address, offset),
            Err(_) => {
                let offset = self.builder.ins().iconst(I64, offset);
                (self.builder.ins().iadd(address, offset), 0)
            }
        }
    }

    // What is known, and what may be computed early.

    /// Evaluates all that neighbouring stores read before any of them writes: an output may lie where an operand lies whose elements are
    /// each read by the stores that overwrite them.
    fn read_ahead(&mut self, stores: &[Stmt]) {
        match stores.len() {
            0 | 1 => {}
            _ => self.hoist_body(stores, &Writes::of(stores), false, &mut HashSet::new()),
        }
    }

    /// Computes, before a loop is entered, everything in its body that the loop does not change.
    fn hoist(&mut self, axis: AxisId, bind: Bind, body: &[Stmt], writes: &Writes) {
        let mut seen = HashSet::new();
        self.hoist_loop(axis, bind, body, writes, false, &mut seen)
    }

    fn hoist_loop(
        &mut self,
        axis: AxisId,
        bind: Bind,
        body: &[Stmt],
        writes: &Writes,
        conditional: bool,
        seen: &mut HashSet<ExprId>,
    ) {
        let vector = match bind {
            Bind::Lanes => self.vector(axis, body),
            Bind::Serial => match self.rows(axis, body) {
                Some((rows, vector)) => {
                    self.hoist_expr(rows.lanes, writes, conditional, seen);
                    Some(vector)
                }
                None => None,
            },
            _ => None,
        };
        let Some(vector) = vector else {
            return self.hoist_body(body, writes, conditional, seen);
        };
        for slot in &vector.slots {
            match slot {
                Slot::Address(buffer, offset) => {
                    let place = self.places.at(&mut self.nest, *buffer, *offset);
                    self.hoist_place(&place, writes, conditional, seen);
                }
                Slot::Scalar(id) => self.hoist_expr(*id, writes, conditional, seen),
                Slot::Accumulator(_) => {}
            }
        }
    }

    fn hoist_body(&mut self, body: &[Stmt], writes: &Writes, conditional: bool, seen: &mut HashSet<ExprId>) {
        for stmt in body {
            match stmt {
                Stmt::Loop {
                    axis,
                    extent,
                    bind,
                    body,
                } => {
                    self.hoist_expr(*extent, writes, conditional, seen);
                    self.hoist_loop(*axis, *bind, body, writes, conditional, seen);
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
                Stmt::Contract(contract) => {
                    for operand in [&contract.a, &contract.b, &contract.c] {
                        self.hoist_expr(operand.start, writes, conditional, seen);
                    }
                }
                Stmt::Prefetch { .. } | Stmt::Product(_) | Stmt::Barrier => {}
            }
        }
    }

    fn learn(&mut self, key: Key, value: Value) {
        self.known.insert(key, value);
        self.trail.push(key);
    }

    /// Forgets everything learnt since the trail had that length.
    fn rewind(&mut self, mark: usize) {
        for key in self.trail.drain(mark..) {
            self.known.remove(&key);
        }
    }

    /// Forgets every value that has changed.
    fn forget(&mut self, writes: &Writes) {
        if writes.is_empty() {
            return;
        }
        let mut known = std::mem::take(&mut self.known);
        known.retain(|key, _| match *key {
            Key::Value(id) | Key::Pointer(_, id) => !writes.change(self.facts(id)),
            Key::Base(_) => true,
        });
        self.known = known;
    }
}

fn min(builder: &mut FunctionBuilder, a: Value, b: Value) -> Value {
    let less = builder.ins().icmp(IntCC::SignedLessThan, a, b);
    builder.ins().select(less, a, b)
}

/// Memory of ours, aligned, where no access can fail.
fn trusted() -> MemFlagsData {
    MemFlagsData::trusted()
}

/// A tensor's memory: accesses are inside, but a vector may not be aligned.
fn memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

#[cfg(test)]
mod tests;
