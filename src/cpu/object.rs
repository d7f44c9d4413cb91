//! Code in an object file, for any system whose linker Cranelift knows.

use cranelift_module::{DataDescription, DataId, Linkage, Module, default_libcall_names};
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
            emitter: Emitter::new(cpu, Place::Object)?,
        })
    }

    /// The module and what emits into it.
    pub fn parts(&mut self) -> (&mut dyn Module, &mut Emitter) {
        (&mut self.module, &mut self.emitter)
    }

    /// The same, remembering what is emitted; see [`Emitter::listing`].
    pub fn listed(cpu: &Cpu, name: &str) -> Result<Object, Error> {
        let Object { module, emitter } = Object::new(cpu, name)?;
        Ok(Object {
            module,
            emitter: emitter.listed(),
        })
    }

    /// Adds read-only bytes under a name, aligned to a cache line; at least one byte, for an empty array is no C.
    pub fn data(&mut self, name: &str, linkage: Linkage, bytes: &[u8]) -> Result<DataId, Error> {
        let id = (self.module)
            .declare_data(name, linkage, false, false)
            .map_err(Error::module)?;
        let mut data = DataDescription::new();
        data.define(if bytes.is_empty() {
            Box::from([0])
        } else {
            Box::from(bytes)
        });
        data.set_align(64);
        self.module.define_data(id, &data).map_err(Error::module)?;
        Ok(id)
    }

    /// The file's bytes.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        self.module
            .finish()
            .emit()
            .map_err(|reason| Error::ObjectFile(reason.to_string()))
    }
}
