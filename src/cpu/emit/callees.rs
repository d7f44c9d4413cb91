//! What kernels call: tiles, the bodies of vector loops, the barrier. Of what several kernels call there is one function, made by the thread whose kernel
//! asks first; another that asks meanwhile waits for it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cranelift::codegen::CodegenError;
use cranelift::codegen::isa::{CallConv, TargetIsa};
use cranelift::prelude::types::I64;
use cranelift::prelude::{AbiParam, Signature};
use cranelift_module::{FuncId, ModuleError};
use hashbrown::HashMap;

use super::compile::Compiled;
use super::tile;
use crate::cpu::isa::{Cpu, Place};
use crate::cpu::matrix::{self, Tiles};
use crate::cpu::tile::{self as assembled, Tile};
use crate::cpu::wide::{self, Body, Finish};

/// A function that kernels call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Callee {
    /// What all workers wait in.
    Barrier,
    /// `fn(a, b, c)`
    Tile(Tile),
    /// `fn(a, b, c)`, assembled: a contraction in pieces.
    Tiles(Tiles),
    /// `fn()`, assembled: before the first contraction in pieces.
    Configure,
    /// `fn()`, assembled: after the last.
    Release,
    /// `fn(slots, count, rows)`, assembled.
    Lanes(Body),
    /// `fn(a, b, slots)`, assembled: a tile and what is done with its sums.
    Finished(Finish),
}

impl Callee {
    /// What its symbol begins with.
    pub fn stem(&self) -> &'static str {
        match self {
            Callee::Barrier => super::BARRIER,
            Callee::Tile(_) => "tile",
            Callee::Tiles(_) => "tiles",
            Callee::Configure => "configure",
            Callee::Release => "release",
            Callee::Lanes(_) => "lanes",
            Callee::Finished(_) => "finished",
        }
    }

    /// How it is called.
    pub fn signature(&self, isa: &dyn TargetIsa, cpu: &Cpu) -> Signature {
        let is_assembled = match self {
            Callee::Barrier => false,
            Callee::Tile(tile) => assembled::is_assembled(tile, cpu.level),
            Callee::Tiles(_) | Callee::Configure | Callee::Release => true,
            Callee::Lanes(_) | Callee::Finished(_) => true,
        };
        let parameters = match self {
            Callee::Configure | Callee::Release => 0,
            _ => 3,
        };
        let mut signature = Signature::new(match is_assembled {
            true => CallConv::SystemV,
            false => isa.default_call_conv(),
        });
        signature.params.extend(vec![AbiParam::new(I64); parameters]);
        signature
    }
}

/// Code; `None` for a body that the CPU's level has none for.
pub type Code = Option<Result<Compiled, ModuleError>>;

/// The callees that are made while kernels are.
pub struct Callees<'a> {
    /// What they are made for.
    pub cpu: &'a Cpu,
    pub home: Place,
    pub isa: &'a dyn TargetIsa,
    /// Whether the module itself has the barrier.
    pub has_barrier: bool,
    /// Those that have been defined already; `None` for one without code.
    pub known: &'a HashMap<Callee, Option<FuncId>>,
    made: Mutex<HashMap<Callee, Arc<OnceLock<Code>>>>,
}

impl<'a> Callees<'a> {
    /// None made, besides those that are known.
    pub fn new(
        cpu: &'a Cpu,
        home: Place,
        isa: &'a dyn TargetIsa,
        has_barrier: bool,
        known: &'a HashMap<Callee, Option<FuncId>>,
    ) -> Callees<'a> {
        Callees {
            cpu,
            home,
            isa,
            has_barrier,
            known,
            made: Mutex::default(),
        }
    }

    /// Makes a callee if nobody has. Whether there is code for it.
    pub fn make(&self, callee: &Callee) -> bool {
        if *callee == Callee::Barrier {
            return true;
        }
        if let Some(function) = self.known.get(callee) {
            return function.is_some();
        }
        let code = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            match made.get(callee) {
                Some(code) => Arc::clone(code),
                None => Arc::clone(made.entry(callee.clone()).or_default()),
            }
        };
        code.get_or_init(|| self.code(callee)).is_some()
    }

    /// How a function is called, and whether it is in the module.
    pub fn declared(&self, callee: &Callee) -> (Signature, bool) {
        let signature = callee.signature(self.isa, self.cpu);
        (signature, *callee != Callee::Barrier || self.has_barrier)
    }

    /// What was made.
    pub fn finish(self) -> HashMap<Callee, Code> {
        let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let codes = made.into_iter().map(|(callee, code)| {
            let code = Arc::into_inner(code).expect("nobody makes code any more");
            (callee, code.into_inner().flatten())
        });
        codes.collect()
    }

    /// The function itself.
    fn code(&self, callee: &Callee) -> Code {
        let level = self.cpu.level;
        match callee {
            Callee::Barrier => unreachable!("the module has the barrier, or imports it"),
            Callee::Tile(tile) if assembled::is_assembled(tile, level) => {
                Some(Ok(Compiled::assembled(assembled::assemble(tile, level))))
            }
            Callee::Tile(tile) => {
                let signature = callee.signature(self.isa, self.cpu);
                Some(tile::compile(tile, signature, self.cpu, self.home))
            }
            Callee::Tiles(tiles) => Some(self.tiles(tiles)),
            Callee::Configure => Some(Ok(Compiled::assembled(matrix::configure()))),
            Callee::Release => Some(Ok(Compiled::assembled(matrix::release()))),
            Callee::Lanes(body) => {
                let lowered = wide::lower(body, level).ok()?;
                Some(Ok(Compiled::assembled(lowered.assemble(level))))
            }
            Callee::Finished(finish) => {
                let lowered = finish.clone().lower(level).ok()?;
                Some(Ok(Compiled::assembled(lowered.assemble(level))))
            }
        }
    }

    /// A contraction in pieces. A text may ask for what there is no code for.
    fn tiles(&self, tiles: &Tiles) -> Result<Compiled, ModuleError> {
        let refused = |reason: &str| ModuleError::Compilation(CodegenError::Unsupported(reason.to_owned()));
        if !self.cpu.has_amx {
            return Err(refused("a contraction in pieces, without a matrix unit"));
        }
        let code = tiles.assemble();
        code.map(Compiled::assembled)
            .ok_or_else(|| refused("a contraction in pieces with so many loops, or so far apart"))
    }
}
