//! Code in an object file, for any system whose linker Cranelift knows.

use cranelift_module::{Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};

use super::Error;
use super::emit::Emitter;
use super::isa::{Cpu, Effort, Place};

/// An object file in the making.
pub struct Object {
    module: ObjectModule,
    emitter: Emitter,
}

impl Object {
    /// An empty object file of that name; ELF, Mach-O or COFF, as the CPU's triple says.
    pub fn new(cpu: &Cpu, name: &str) -> Result<Object, Error> {
        let isa = cpu.isa(Effort::Speed, Place::Object)?;
        let builder = ObjectBuilder::new(isa, name, default_libcall_names()).map_err(Error::module)?;
        Ok(Object {
            module: ObjectModule::new(builder),
            emitter: Emitter::new(cpu, Place::Object),
        })
    }

    /// The module and what emits into it.
    pub fn parts(&mut self) -> (&mut dyn Module, &mut Emitter) {
        (&mut self.module, &mut self.emitter)
    }

    /// The file's bytes.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        self.module
            .finish()
            .emit()
            .map_err(|reason| Error::ObjectFile(reason.to_string()))
    }
}
