//! A SPIR-V module in the making: types and constants once each, one entry point, structured control flow.
//!
//! Values are words with a [`Kind`]. Integers are all declared without sign, as SPIR-V lets every operation choose how it reads them.

use std::collections::HashMap;

use rspirv::binary::Assemble;
use rspirv::dr::{Block, Function, Instruction, Module, ModuleHeader, Operand};
use rspirv::spirv::{
    AddressingModel, BuiltIn, Capability, Decoration, Dim, ExecutionMode, ExecutionModel, FunctionControl,
    GlslStd450Op, ImageFormat, LoopControl, MemoryModel, MemorySemantics, Op, Scope, SelectionControl, StorageClass,
    Word,
};

/// The type of a value, or of an element in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Kind {
    Bool,
    U8,
    U16,
    U32,
    U64,
    F16,
    F32,
    F64,
}

/// A loop that has begun.
pub struct Counting {
    /// The number of the iteration.
    pub at: Word,
    counter: Word,
    head: Word,
    next: Word,
    end: Word,
}

/// A module with one compute entry point, `main`.
pub struct Writer {
    module: Module,
    next: Word,
    kinds: HashMap<Kind, Word>,
    constants: HashMap<(Kind, u64), Word>,
    pointers: HashMap<(StorageClass, Word), Word>,
    others: HashMap<(Op, Vec<Word>), Word>,
    arithmetic: Word,
    main: Word,
    interface: Vec<Word>,
    variables: Vec<Instruction>,
    blocks: Vec<Block>,
    block: Block,
}

impl Writer {
    /// An empty `main`, in its first block.
    pub fn empty() -> Writer {
        let mut writer = Writer {
            module: Module::new(),
            next: 1,
            kinds: HashMap::new(),
            constants: HashMap::new(),
            pointers: HashMap::new(),
            others: HashMap::new(),
            arithmetic: 0,
            main: 0,
            interface: Vec::new(),
            variables: Vec::new(),
            blocks: Vec::new(),
            block: Block::new(),
        };
        writer.arithmetic = writer.id();
        writer.main = writer.id();
        writer.capability(Capability::Shader);
        let label = writer.id();
        writer.begin(label);
        writer
    }

    /// A new word.
    pub fn id(&mut self) -> Word {
        self.next += 1;
        self.next - 1
    }

    /// Declares what the device must be able to do.
    pub fn capability(&mut self, capability: Capability) {
        push_capability(&mut self.module, capability);
    }

    /// Declares cooperative matrices of halves, which take Vulkan's own memory model.
    pub fn declare_matrices(&mut self) {
        self.capability(Capability::CooperativeMatrixKHR);
        self.capability(Capability::VulkanMemoryModel);
        let name = Operand::LiteralString("SPV_KHR_cooperative_matrix".into());
        let extension = Instruction::new(Op::Extension, None, None, vec![name]);
        self.module.extensions.push(extension);
    }

    // Types and constants.

    /// The word of a kind; declares the capability that it needs.
    pub fn kind(&mut self, kind: Kind) -> Word {
        if let Some(&id) = self.kinds.get(&kind) {
            return id;
        }
        let int = |bits| (Op::TypeInt, vec![Operand::LiteralBit32(bits), Operand::LiteralBit32(0)]);
        let float = |bits| (Op::TypeFloat, vec![Operand::LiteralBit32(bits)]);
        let (op, operands) = match kind {
            Kind::Bool => (Op::TypeBool, vec![]),
            Kind::U8 => int(8),
            Kind::U16 => int(16),
            Kind::U32 => int(32),
            Kind::U64 => int(64),
            Kind::F16 => float(16),
            Kind::F32 => float(32),
            Kind::F64 => float(64),
        };
        match kind {
            Kind::U8 => self.capability(Capability::StorageBuffer8BitAccess),
            Kind::U16 => self.capability(Capability::StorageBuffer16BitAccess),
            Kind::U64 => self.capability(Capability::Int64),
            Kind::F16 => self.capability(Capability::Float16),
            Kind::F64 => self.capability(Capability::Float64),
            Kind::Bool | Kind::U32 | Kind::F32 => {}
        }
        let id = self.global(op, None, operands);
        self.kinds.insert(kind, id);
        id
    }

    /// Whether a kind has been used.
    pub fn uses(&self, kind: Kind) -> bool {
        self.kinds.contains_key(&kind)
    }

    fn global(&mut self, op: Op, ty: Option<Word>, operands: Vec<Operand>) -> Word {
        let id = self.id();
        let instruction = Instruction::new(op, ty, Some(id), operands);
        self.module.types_global_values.push(instruction);
        id
    }

    /// A type made of others and of constants, once.
    pub fn composite(&mut self, op: Op, parts: &[Word]) -> Word {
        let key = (op, parts.to_vec());
        if let Some(&id) = self.others.get(&key) {
            return id;
        }
        let id = self.global(op, None, parts.iter().map(|&part| Operand::IdRef(part)).collect());
        self.others.insert(key, id);
        id
    }

    /// The structure of two `u32`.
    pub fn pair(&mut self) -> Word {
        let u32 = self.kind(Kind::U32);
        self.composite(Op::TypeStruct, &[u32, u32])
    }

    fn pointer(&mut self, class: StorageClass, to: Word) -> Word {
        if let Some(&id) = self.pointers.get(&(class, to)) {
            return id;
        }
        let operands = vec![Operand::StorageClass(class), Operand::IdRef(to)];
        let id = self.global(Op::TypePointer, None, operands);
        self.pointers.insert((class, to), id);
        id
    }

    /// A constant, from its bits.
    pub fn constant(&mut self, kind: Kind, bits: u64) -> Word {
        if let Some(&id) = self.constants.get(&(kind, bits)) {
            return id;
        }
        let ty = self.kind(kind);
        let (op, operands) = match kind {
            Kind::Bool if bits != 0 => (Op::ConstantTrue, vec![]),
            Kind::Bool => (Op::ConstantFalse, vec![]),
            Kind::U64 | Kind::F64 => (Op::Constant, vec![Operand::LiteralBit64(bits)]),
            _ => (Op::Constant, vec![Operand::LiteralBit32(bits as u32)]),
        };
        let id = self.global(op, Some(ty), operands);
        self.constants.insert((kind, bits), id);
        id
    }

    /// The zero of a type.
    pub fn null(&mut self, ty: Word) -> Word {
        let key = (Op::ConstantNull, vec![ty]);
        if let Some(&id) = self.others.get(&key) {
            return id;
        }
        let id = self.global(Op::ConstantNull, Some(ty), vec![]);
        self.others.insert(key, id);
        id
    }

    /// A `u32` constant.
    pub fn u32(&mut self, value: u32) -> Word {
        self.constant(Kind::U32, value.into())
    }

    /// An `f32` constant.
    pub fn f32(&mut self, value: f32) -> Word {
        self.constant(Kind::F32, value.to_bits().into())
    }

    // Memory.

    fn decorate(&mut self, target: Word, decoration: Decoration, parameters: &[u32]) {
        let mut operands = vec![Operand::IdRef(target), Operand::Decoration(decoration)];
        operands.extend(parameters.iter().map(|&parameter| Operand::LiteralBit32(parameter)));
        let instruction = Instruction::new(Op::Decorate, None, None, operands);
        self.module.annotations.push(instruction);
    }

    fn decorate_member(&mut self, target: Word, member: u32, decoration: Decoration, parameters: &[u32]) {
        let mut operands = vec![
            Operand::IdRef(target),
            Operand::LiteralBit32(member),
            Operand::Decoration(decoration),
        ];
        operands.extend(parameters.iter().map(|&parameter| Operand::LiteralBit32(parameter)));
        let instruction = Instruction::new(Op::MemberDecorate, None, None, operands);
        self.module.annotations.push(instruction);
    }

    fn variable(&mut self, class: StorageClass, to: Word) -> Word {
        let pointer = self.pointer(class, to);
        let id = self.global(Op::Variable, Some(pointer), vec![Operand::StorageClass(class)]);
        self.interface.push(id);
        id
    }

    /// A storage buffer of elements at a binding of set 0. Others may lie over it.
    pub fn storage(&mut self, binding: u32, element: Kind, writable: bool) -> Word {
        let size = match element {
            Kind::U8 => 1,
            Kind::U16 | Kind::F16 => 2,
            Kind::U32 | Kind::F32 | Kind::Bool => 4,
            Kind::U64 | Kind::F64 => 8,
        };
        let ty = self.kind(element);
        if element == Kind::F16 {
            self.capability(Capability::StorageBuffer16BitAccess);
        }
        // Structures that are decorated differently must differ, so none is shared between kinds or directions.
        let key = (Op::TypeRuntimeArray, vec![ty, u32::from(writable)]);
        let block = match self.others.get(&key) {
            Some(&block) => block,
            None => {
                let array = self.global(Op::TypeRuntimeArray, None, vec![Operand::IdRef(ty)]);
                self.decorate(array, Decoration::ArrayStride, &[size]);
                let block = self.global(Op::TypeStruct, None, vec![Operand::IdRef(array)]);
                self.decorate(block, Decoration::Block, &[]);
                self.decorate_member(block, 0, Decoration::Offset, &[0]);
                if !writable {
                    self.decorate_member(block, 0, Decoration::NonWritable, &[]);
                }
                self.others.insert(key, block);
                block
            }
        };
        let id = self.variable(StorageClass::StorageBuffer, block);
        self.bind(id, binding);
        self.decorate(id, Decoration::Aliased, &[]);
        id
    }

    fn bind(&mut self, variable: Word, binding: u32) {
        self.decorate(variable, Decoration::DescriptorSet, &[0]);
        self.decorate(variable, Decoration::Binding, &[binding]);
    }

    /// The type of a buffer whose elements are read as texels.
    fn texel_buffer(&mut self) -> Word {
        let texel = self.kind(Kind::F32);
        let key = (Op::TypeImage, vec![texel]);
        if let Some(&id) = self.others.get(&key) {
            return id;
        }
        self.capability(Capability::SampledBuffer);
        let [depth, arrayed, multisampled, sampled] = [0, 0, 0, 1].map(Operand::LiteralBit32);
        let (dim, format) = (Operand::Dim(Dim::DimBuffer), Operand::ImageFormat(ImageFormat::Unknown));
        let operands = vec![
            Operand::IdRef(texel),
            dim,
            depth,
            arrayed,
            multisampled,
            sampled,
            format,
        ];
        let id = self.global(Op::TypeImage, None, operands);
        self.others.insert(key, id);
        id
    }

    /// A buffer of `f32` at a binding of set 0, to be read as texels.
    pub fn texels(&mut self, binding: u32) -> Word {
        let ty = self.texel_buffer();
        let id = self.variable(StorageClass::UniformConstant, ty);
        self.bind(id, binding);
        id
    }

    /// The elements of the texel at an index of a buffer of texels.
    pub fn fetch<const COUNT: usize>(&mut self, texels: Word, index: Word) -> [Word; COUNT] {
        let ty = self.texel_buffer();
        let image = self.typed(Op::Load, ty, &[texels]);
        let vector = self.vector(Kind::F32, 4);
        let texel = self.typed(Op::ImageFetch, vector, &[image, index]);
        std::array::from_fn(|at| self.extract(Kind::F32, texel, at as u32))
    }

    /// The type of a vector.
    fn vector(&mut self, kind: Kind, length: u32) -> Word {
        let ty = self.kind(kind);
        let key = (Op::TypeVector, vec![ty, length]);
        if let Some(&vector) = self.others.get(&key) {
            return vector;
        }
        let vector = self.global(
            Op::TypeVector,
            None,
            vec![Operand::IdRef(ty), Operand::LiteralBit32(length)],
        );
        self.others.insert(key, vector);
        vector
    }

    /// The address of an element of a storage buffer.
    pub fn element(&mut self, buffer: Word, kind: Kind, index: Word) -> Word {
        let ty = self.kind(kind);
        let pointer = self.pointer(StorageClass::StorageBuffer, ty);
        let zero = self.u32(0);
        self.typed(Op::AccessChain, pointer, &[buffer, zero, index])
    }

    /// A block of so many `u32` push constants.
    pub fn push_constants(&mut self, count: u32) -> Word {
        let u32 = self.kind(Kind::U32);
        let length = self.u32(count);
        let array = self.global(Op::TypeArray, None, vec![Operand::IdRef(u32), Operand::IdRef(length)]);
        self.decorate(array, Decoration::ArrayStride, &[4]);
        let block = self.global(Op::TypeStruct, None, vec![Operand::IdRef(array)]);
        self.decorate(block, Decoration::Block, &[]);
        self.decorate_member(block, 0, Decoration::Offset, &[0]);
        self.variable(StorageClass::PushConstant, block)
    }

    /// The value of a push constant.
    pub fn push_constant(&mut self, block: Word, number: u32) -> Word {
        let u32 = self.kind(Kind::U32);
        let pointer = self.pointer(StorageClass::PushConstant, u32);
        let zero = self.u32(0);
        let number = self.u32(number);
        let address = self.typed(Op::AccessChain, pointer, &[block, zero, number]);
        self.op(Op::Load, Kind::U32, &[address])
    }

    /// One component of an input that is a vector of three `u32`.
    pub fn input(&mut self, builtin: BuiltIn, component: u32) -> Word {
        let vector = self.vector(Kind::U32, 3);
        let variable = self.input_of(builtin, vector);
        let value = self.typed(Op::Load, vector, &[variable]);
        self.extract(Kind::U32, value, component)
    }

    /// An input that is a `u32`.
    pub fn scalar_input(&mut self, builtin: BuiltIn) -> Word {
        let ty = self.kind(Kind::U32);
        let variable = self.input_of(builtin, ty);
        self.op(Op::Load, Kind::U32, &[variable])
    }

    /// The variable of an input of a type.
    fn input_of(&mut self, builtin: BuiltIn, ty: Word) -> Word {
        let key = (Op::Variable, vec![builtin as u32]);
        if let Some(&variable) = self.others.get(&key) {
            return variable;
        }
        let variable = self.variable(StorageClass::Input, ty);
        let operands = vec![
            Operand::IdRef(variable),
            Operand::Decoration(Decoration::BuiltIn),
            Operand::BuiltIn(builtin),
        ];
        let instruction = Instruction::new(Op::Decorate, None, None, operands);
        self.module.annotations.push(instruction);
        self.others.insert(key, variable);
        variable
    }

    /// The number of the workgroup, of those in two dimensions.
    pub fn group_number(&mut self) -> Word {
        let [column, row] = [0, 1].map(|at| self.input(BuiltIn::WorkgroupId, at));
        let columns = self.input(BuiltIn::NumWorkgroups, 0);
        let before = self.op(Op::IMul, Kind::U32, &[row, columns]);
        self.op(Op::IAdd, Kind::U32, &[before, column])
    }

    /// A variable of `main`.
    pub fn local(&mut self, kind: Kind) -> Word {
        let ty = self.kind(kind);
        self.variable_of(ty)
    }

    /// An array of `main`.
    pub fn local_array(&mut self, kind: Kind, count: u32) -> Word {
        let ty = self.kind(kind);
        let length = self.u32(count);
        let array = self.composite(Op::TypeArray, &[ty, length]);
        self.variable_of(array)
    }

    /// The address of an element of an array of `main`.
    pub fn local_element(&mut self, array: Word, kind: Kind, index: Word) -> Word {
        let ty = self.kind(kind);
        let pointer = self.pointer(StorageClass::Function, ty);
        self.typed(Op::AccessChain, pointer, &[array, index])
    }

    /// An array that a workgroup shares.
    pub fn group_array(&mut self, kind: Kind, count: u32) -> Word {
        let ty = self.kind(kind);
        let length = self.u32(count);
        let array = self.composite(Op::TypeArray, &[ty, length]);
        self.variable(StorageClass::Workgroup, array)
    }

    /// The address of an element of an array that a workgroup shares.
    pub fn group_element(&mut self, array: Word, kind: Kind, index: Word) -> Word {
        let ty = self.kind(kind);
        let pointer = self.pointer(StorageClass::Workgroup, ty);
        self.typed(Op::AccessChain, pointer, &[array, index])
    }

    /// Waits for all invocations of the workgroup, and shows each what the others have written to its memory.
    pub fn group_barrier(&mut self) {
        let semantics = MemorySemantics::ACQUIRE_RELEASE | MemorySemantics::WORKGROUP_MEMORY;
        let [scope, semantics] = [Scope::Workgroup as u32, semantics.bits()].map(|value| self.u32(value));
        self.effect(Op::ControlBarrier, &[scope, scope, semantics]);
    }

    /// A variable of `main` of a type.
    pub fn variable_of(&mut self, ty: Word) -> Word {
        let pointer = self.pointer(StorageClass::Function, ty);
        let id = self.id();
        let operands = vec![Operand::StorageClass(StorageClass::Function)];
        self.variables
            .push(Instruction::new(Op::Variable, Some(pointer), Some(id), operands));
        id
    }

    /// The value at an address.
    pub fn load(&mut self, kind: Kind, address: Word) -> Word {
        self.op(Op::Load, kind, &[address])
    }

    /// Writes to an address.
    pub fn store(&mut self, address: Word, value: Word) {
        self.effect(Op::Store, &[address, value]);
    }

    // Operations.

    /// An operation with a result of a kind.
    pub fn op(&mut self, op: Op, kind: Kind, operands: &[Word]) -> Word {
        let ty = self.kind(kind);
        self.typed(op, ty, operands)
    }

    /// An operation on floats whose result must be rounded by itself: never contracted with another, nor rewritten.
    pub fn exact(&mut self, op: Op, kind: Kind, operands: &[Word]) -> Word {
        let id = self.op(op, kind, operands);
        self.decorate(id, Decoration::NoContraction, &[]);
        id
    }

    /// An operation with a result of a type.
    pub fn typed(&mut self, op: Op, ty: Word, operands: &[Word]) -> Word {
        let id = self.id();
        let operands = operands.iter().map(|&operand| Operand::IdRef(operand)).collect();
        self.block
            .instructions
            .push(Instruction::new(op, Some(ty), Some(id), operands));
        id
    }

    /// A member of a structure or vector.
    pub fn extract(&mut self, kind: Kind, composite: Word, member: u32) -> Word {
        let ty = self.kind(kind);
        let id = self.id();
        let operands = vec![Operand::IdRef(composite), Operand::LiteralBit32(member)];
        let instruction = Instruction::new(Op::CompositeExtract, Some(ty), Some(id), operands);
        self.block.instructions.push(instruction);
        id
    }

    /// An instruction of `GLSL.std.450`.
    pub fn arithmetic(&mut self, op: GlslStd450Op, kind: Kind, operands: &[Word]) -> Word {
        let ty = self.kind(kind);
        let id = self.id();
        let mut all = vec![
            Operand::IdRef(self.arithmetic),
            Operand::LiteralExtInstInteger(op as u32),
        ];
        all.extend(operands.iter().map(|&operand| Operand::IdRef(operand)));
        self.block
            .instructions
            .push(Instruction::new(Op::ExtInst, Some(ty), Some(id), all));
        id
    }

    /// `condition ? yes : no`
    pub fn select(&mut self, kind: Kind, condition: Word, yes: Word, no: Word) -> Word {
        self.op(Op::Select, kind, &[condition, yes, no])
    }

    /// The same bits as another kind.
    pub fn bitcast(&mut self, kind: Kind, value: Word) -> Word {
        self.op(Op::Bitcast, kind, &[value])
    }

    /// An operation without a result.
    pub fn effect(&mut self, op: Op, operands: &[Word]) {
        let operands = operands.iter().map(|&operand| Operand::IdRef(operand)).collect();
        self.block.instructions.push(Instruction::new(op, None, None, operands));
    }

    // Control.

    /// Ends the present block with a jump.
    pub fn jump(&mut self, to: Word) {
        self.effect(Op::Branch, &[to]);
        self.end_block();
    }

    /// Ends the present block with a choice.
    pub fn branch(&mut self, condition: Word, yes: Word, no: Word) {
        self.effect(Op::BranchConditional, &[condition, yes, no]);
        self.end_block();
    }

    /// Begins a block.
    pub fn begin(&mut self, label: Word) {
        self.block.label = Some(Instruction::new(Op::Label, None, Some(label), vec![]));
    }

    /// Says that the choice which ends this block joins again at `end`.
    pub fn merge(&mut self, end: Word) {
        let operands = vec![Operand::IdRef(end), Operand::SelectionControl(SelectionControl::NONE)];
        let instruction = Instruction::new(Op::SelectionMerge, None, None, operands);
        self.block.instructions.push(instruction);
    }

    /// Says that this block heads a loop.
    pub fn merge_loop(&mut self, end: Word, next: Word) {
        let operands = vec![
            Operand::IdRef(end),
            Operand::IdRef(next),
            Operand::LoopControl(LoopControl::NONE),
        ];
        let instruction = Instruction::new(Op::LoopMerge, None, None, operands);
        self.block.instructions.push(instruction);
    }

    /// Begins a loop from 0 while below `extent`.
    pub fn begin_loop(&mut self, extent: Word) -> Counting {
        let counter = self.local(Kind::U32);
        let zero = self.u32(0);
        self.store(counter, zero);
        let [head, test, run, next, end] = std::array::from_fn(|_| self.id());
        self.jump(head);
        self.begin(head);
        self.merge_loop(end, next);
        self.jump(test);
        self.begin(test);
        let at = self.load(Kind::U32, counter);
        let more = self.op(Op::SLessThan, Kind::Bool, &[at, extent]);
        self.branch(more, run, end);
        self.begin(run);
        Counting {
            at,
            counter,
            head,
            next,
            end,
        }
    }

    /// Ends it.
    pub fn end_loop(&mut self, counting: Counting) {
        let Counting {
            at,
            counter,
            head,
            next,
            end,
        } = counting;
        self.jump(next);
        self.begin(next);
        let one = self.u32(1);
        let after = self.op(Op::IAdd, Kind::U32, &[at, one]);
        self.store(counter, after);
        self.jump(head);
        self.begin(end);
    }

    fn end_block(&mut self) {
        self.blocks.push(std::mem::take(&mut self.block));
    }

    /// The module: `main` returns here. `modes` are further execution modes, each for floats of a width.
    pub fn finish(mut self, group: u32, modes: &[(ExecutionMode, Capability, u32)]) -> Module {
        self.effect(Op::Return, &[]);
        self.end_block();
        let void = self.global(Op::TypeVoid, None, vec![]);
        let signature = self.global(Op::TypeFunction, None, vec![Operand::IdRef(void)]);
        let main = self.main;
        let Writer {
            mut module,
            next,
            arithmetic,
            interface,
            mut variables,
            mut blocks,
            ..
        } = self;
        variables.append(&mut blocks[0].instructions);
        blocks[0].instructions = variables;
        module.functions.push(Function {
            def: Some(Instruction::new(
                Op::Function,
                Some(void),
                Some(main),
                vec![
                    Operand::FunctionControl(FunctionControl::NONE),
                    Operand::IdRef(signature),
                ],
            )),
            end: Some(Instruction::new(Op::FunctionEnd, None, None, vec![])),
            parameters: vec![],
            blocks,
        });
        let mut entry = vec![
            Operand::ExecutionModel(ExecutionModel::GLCompute),
            Operand::IdRef(main),
            Operand::LiteralString("main".into()),
        ];
        entry.extend(interface.into_iter().map(Operand::IdRef));
        module
            .entry_points
            .push(Instruction::new(Op::EntryPoint, None, None, entry));
        push_mode(&mut module, ExecutionMode::LocalSize, &[group, 1, 1]);
        module.ext_inst_imports.push(Instruction::new(
            Op::ExtInstImport,
            None,
            Some(arithmetic),
            vec![Operand::LiteralString("GLSL.std.450".into())],
        ));
        let has_own_model = |of: &Instruction| of.operands[0] == Operand::Capability(Capability::VulkanMemoryModel);
        let memory_model = match module.capabilities.iter().any(has_own_model) {
            true => MemoryModel::Vulkan,
            false => MemoryModel::GLSL450,
        };
        module.memory_model = Some(Instruction::new(
            Op::MemoryModel,
            None,
            None,
            vec![
                Operand::AddressingModel(AddressingModel::Logical),
                Operand::MemoryModel(memory_model),
            ],
        ));
        let mut header = ModuleHeader::new(next);
        header.set_version(1, 5);
        module.header = Some(header);
        demand(&mut module, modes);
        module
    }
}

/// Demands execution modes, each for floats of a width, with the capability that it needs.
pub fn demand(module: &mut Module, modes: &[(ExecutionMode, Capability, u32)]) {
    for &(mode, capability, bits) in modes {
        push_capability(module, capability);
        push_mode(module, mode, &[bits]);
    }
}

fn push_capability(module: &mut Module, capability: Capability) {
    let instruction = Instruction::new(Op::Capability, None, None, vec![Operand::Capability(capability)]);
    if !module.capabilities.contains(&instruction) {
        module.capabilities.push(instruction);
    }
}

/// An execution mode of the only entry point.
fn push_mode(module: &mut Module, mode: ExecutionMode, parameters: &[u32]) {
    let main = module.entry_points[0].operands[1].clone();
    let mut operands = vec![main, Operand::ExecutionMode(mode)];
    operands.extend(parameters.iter().map(|&parameter| Operand::LiteralBit32(parameter)));
    let instruction = Instruction::new(Op::ExecutionMode, None, None, operands);
    module.execution_modes.push(instruction);
}

/// A module's words.
pub fn words(module: &Module) -> Vec<u32> {
    module.assemble()
}
