//! What a device must have and allow to run modules, by Vulkan's own names, so that a host in any language can ask.
//!
//! In: the modules and commands of a [`super::script`]. Out: [`Need`]s, which the script lists, and which whoever plays it checks first: a device
//! that lacks one may refuse a module, or run it and give something else. Two things are not asked: whether `Fma` rounds once, of which Vulkan says
//! nothing ([`super::probe`]), and how much memory there is, which the device says when it is taken.

use rspirv::dr::{self, Operand};
use rspirv::spirv::{Capability, ExecutionMode, Op, StorageClass, Word};

use super::commands::{Command, Segment, Span};
use super::device::Device;
use super::modules::{Binding, Module};

/// One thing needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// A feature, or a limit.
    pub name: &'static str,
    /// The least that will do: 1 of a feature.
    pub least: u64,
}

/// How much of it a device has.
type Has = fn(&Device) -> u64;

/// Everything that may be needed. Of the bits in `subgroupSupportedOperations` those that compute shaders have are meant.
static KNOWN: [(&str, Has); 26] = [
    ("shaderFloat16", |device| device.traits.f16.into()),
    ("shaderFloat64", |device| device.traits.float64.into()),
    ("shaderInt64", |device| device.traits.int64.into()),
    ("storageBuffer8BitAccess", |device| device.traits.storage8.into()),
    ("storageBuffer16BitAccess", |device| device.traits.storage16.into()),
    ("shaderRoundingModeRTEFloat16", |device| {
        device.traits.floats16.nearest.into()
    }),
    ("shaderRoundingModeRTEFloat32", |device| {
        device.traits.floats32.nearest.into()
    }),
    ("shaderRoundingModeRTEFloat64", |device| {
        device.traits.floats64.nearest.into()
    }),
    ("shaderDenormPreserveFloat16", |device| {
        (device.traits.floats16.least == 0.0).into()
    }),
    ("shaderDenormPreserveFloat32", |device| {
        (device.traits.floats32.least == 0.0).into()
    }),
    ("shaderDenormPreserveFloat64", |device| {
        (device.traits.floats64.least == 0.0).into()
    }),
    ("shaderSignedZeroInfNanPreserveFloat16", |device| {
        device.traits.floats16.specials.into()
    }),
    ("shaderSignedZeroInfNanPreserveFloat32", |device| {
        device.traits.floats32.specials.into()
    }),
    ("shaderSignedZeroInfNanPreserveFloat64", |device| {
        device.traits.floats64.specials.into()
    }),
    ("VK_SUBGROUP_FEATURE_SHUFFLE_BIT", |device| {
        device.traits.shuffles.into()
    }),
    ("subgroupSize", |device| device.traits.subgroup.into()),
    ("maxComputeWorkGroupInvocations", |device| device.traits.group.into()),
    ("maxComputeWorkGroupSize[0]", |device| device.traits.group.into()),
    ("maxComputeSharedMemorySize", |device| device.traits.shared_bytes.into()),
    ("maxComputeWorkGroupCount[0]", |device| device.traits.groups[0].into()),
    ("maxComputeWorkGroupCount[1]", |device| device.traits.groups[1].into()),
    ("maxPerStageDescriptorStorageBuffers", |device| {
        device.traits.bindings.into()
    }),
    ("maxPerStageDescriptorSampledImages", |device| {
        let physical = device.handle().physical_device();
        physical.properties().max_per_stage_descriptor_sampled_images.into()
    }),
    ("maxPushConstantsSize", |device| device.traits.push_bytes.into()),
    ("maxStorageBufferRange", |device| device.traits.tensor_bytes),
    ("maxTexelBufferElements", |device| {
        let physical = device.handle().physical_device();
        physical.properties().max_texel_buffer_elements.into()
    }),
];

/// Needs, each once, in the order in which they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs(Vec<Need>);

impl Needs {
    /// What modules and lists of commands need, which are of one script.
    pub fn of<'a>(modules: &[Module], segments: impl IntoIterator<Item = &'a Segment<Vec<Command>>>) -> Needs {
        let mut needs = Needs::default();
        for module in modules {
            needs.add_module(module);
        }
        for segment in segments {
            needs.add_segment(modules, segment);
        }
        needs
    }

    /// Another need; the greater of two of a name.
    ///
    /// # Errors
    /// If nothing is known by that name.
    pub fn add(&mut self, name: &str, least: u64) -> Result<(), String> {
        let place = |wanted: &str| KNOWN.iter().position(|(name, _)| *name == wanted);
        let known = place(name).ok_or_else(|| format!("this netloom knows no feature or limit `{name}`"))?;
        let at = self.0.partition_point(|need| place(need.name) < Some(known));
        match self.0.get_mut(at).filter(|need| need.name == name) {
            Some(need) => need.least = need.least.max(least),
            None => self.0.insert(
                at,
                Need {
                    name: KNOWN[known].0,
                    least,
                },
            ),
        }
        Ok(())
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Need> {
        self.0.iter()
    }

    /// What a device lacks of it, as a sentence.
    pub fn missing(&self, device: &Device) -> Option<String> {
        let lacks = self.iter().filter_map(|need| {
            let (_, has) = KNOWN.iter().find(|(name, _)| *name == need.name)?;
            let there = has(device);
            (there < need.least).then(|| match there {
                0 => need.name.to_owned(),
                _ => format!("{} of {}, it has {there}", need.name, need.least),
            })
        });
        let lacks: Vec<String> = lacks.collect();
        (!lacks.is_empty()).then(|| format!("this device lacks {}", lacks.join("; ")))
    }

    fn need(&mut self, name: &str, least: u64) {
        self.add(name, least).expect("what is needed is known");
    }

    fn add_module(&mut self, module: &Module) {
        let code = dr::load_words(&module.words).expect("modules are what `emit` makes");
        for instruction in &code.capabilities {
            match instruction.operands[0] {
                Operand::Capability(Capability::Float16) => self.need("shaderFloat16", 1),
                Operand::Capability(Capability::Float64) => self.need("shaderFloat64", 1),
                Operand::Capability(Capability::Int64) => self.need("shaderInt64", 1),
                Operand::Capability(Capability::StorageBuffer8BitAccess) => self.need("storageBuffer8BitAccess", 1),
                Operand::Capability(Capability::StorageBuffer16BitAccess) => self.need("storageBuffer16BitAccess", 1),
                Operand::Capability(Capability::GroupNonUniformShuffle) => {
                    self.need("VK_SUBGROUP_FEATURE_SHUFFLE_BIT", 1);
                    // The shader of products hands round what eight invocations have; what is generated asks for the size it wants as it runs.
                    self.need("subgroupSize", 8);
                }
                _ => {}
            }
        }
        for instruction in &code.execution_modes {
            match instruction.operands[1..] {
                [
                    Operand::ExecutionMode(ExecutionMode::LocalSize),
                    Operand::LiteralBit32(size),
                    ..,
                ] => {
                    self.need("maxComputeWorkGroupInvocations", size.into());
                    self.need("maxComputeWorkGroupSize[0]", size.into());
                }
                [Operand::ExecutionMode(mode), Operand::LiteralBit32(bits)] => {
                    let what = match mode {
                        ExecutionMode::RoundingModeRTE => "RoundingModeRTE",
                        ExecutionMode::DenormPreserve => "DenormPreserve",
                        ExecutionMode::SignedZeroInfNanPreserve => "SignedZeroInfNanPreserve",
                        _ => continue,
                    };
                    self.need(&format!("shader{what}Float{bits}"), 1);
                }
                _ => {}
            }
        }
        let shared = shared_bytes(&code);
        if shared > 0 {
            self.need("maxComputeSharedMemorySize", shared);
        }
        let buffers = module.bindings.iter().filter(|binding| **binding == Binding::Buffer);
        let buffers = buffers.count();
        self.need("maxPerStageDescriptorStorageBuffers", buffers as u64);
        let views = module.bindings.len() - buffers;
        if views > 0 {
            self.need("maxPerStageDescriptorSampledImages", views as u64);
        }
        self.need("maxPushConstantsSize", 4 * u64::from(module.pushed));
        let [columns, rows] = module.groups;
        self.need("maxComputeWorkGroupCount[0]", columns.into());
        self.need("maxComputeWorkGroupCount[1]", rows.into());
    }

    fn add_segment(&mut self, modules: &[Module], segment: &Segment<Vec<Command>>) {
        let (one, other) = match segment {
            Segment::Run(commands) => {
                for command in commands {
                    if let Command::Dispatch { module, bound, .. } = command {
                        self.add_bound(&modules[*module].bindings, bound);
                    }
                }
                return;
            }
            Segment::Branch { then, otherwise } => (then, otherwise),
            Segment::While { condition, body } => (condition, body),
        };
        for segment in one.iter().chain(other) {
            self.add_segment(modules, segment);
        }
    }

    fn add_bound(&mut self, bindings: &[Binding], bound: &[Span]) {
        for (binding, span) in bindings.iter().zip(bound) {
            match binding {
                Binding::Buffer => self.need("maxStorageBufferRange", span.bytes),
                Binding::One => self.need("maxTexelBufferElements", span.bytes / 4),
                Binding::Four => self.need("maxTexelBufferElements", span.bytes / 16),
            }
        }
    }
}

/// Bytes of the arrays that a workgroup shares.
fn shared_bytes(code: &dr::Module) -> u64 {
    let globals = &code.types_global_values;
    let find = |id: Word| globals.iter().find(|global| global.result_id == Some(id));
    let id = |operand: &Operand| match operand {
        Operand::IdRef(id) => find(*id),
        _ => None,
    };
    let shared = globals.iter().filter(|global| {
        let class = global.operands.first();
        global.class.opcode == Op::Variable && class == Some(&Operand::StorageClass(StorageClass::Workgroup))
    });
    let bytes = shared.filter_map(|variable| {
        let array = id(&find(variable.result_type?)?.operands[1])?;
        let (element, length) = (id(&array.operands[0])?, id(&array.operands[1])?);
        let [Operand::LiteralBit32(length)] = length.operands[..] else {
            return None;
        };
        // Flags take as much as `u32`.
        let bits = match element.operands.first() {
            Some(Operand::LiteralBit32(bits)) => *bits,
            _ => 32,
        };
        Some(u64::from(bits / 8) * u64::from(length))
    });
    bytes.sum()
}
