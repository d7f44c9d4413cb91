//! Modules as pipelines.

use std::sync::Arc;

use netloom_ir::kernel::Nest;
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::pipeline::compute::ComputePipelineCreateInfo;
use vulkano::pipeline::layout::{PipelineLayout, PipelineLayoutCreateInfo, PushConstantRange};
use vulkano::pipeline::{ComputePipeline, PipelineShaderStageCreateInfo};
use vulkano::shader::{ShaderModule, ShaderModuleCreateInfo, ShaderStages};

use super::Error;
use super::device::Device;
use super::modules::{self, Binding, Kernel, Module};
use crate::cores;

/// A module ready to be dispatched.
pub struct Pipeline {
    /// What is bound to it.
    pub bindings: Vec<Binding>,
    /// Of its one set.
    pub set_layout: Arc<DescriptorSetLayout>,
    /// With the push constants.
    pub layout: Arc<PipelineLayout>,
    /// Its code.
    pub code: Arc<ComputePipeline>,
    /// Work groups.
    pub groups: [u32; 3],
}

/// Compiles every nest, on all cores, and keeps what the driver has made of them for the next time.
///
/// # Errors
/// If the device refuses, or lacks something: then for every kernel for which it does.
pub fn kernels(device: &Device, nests: &[Nest]) -> Result<(Vec<Pipeline>, Vec<Kernel>), Error> {
    let made = each(nests, |nest| {
        let (modules, kernel) = modules::of(nest, &device.traits)?;
        let pipelines = modules.iter().map(|module| Pipeline::new(device, module));
        Ok((pipelines.collect::<Result<Vec<_>, Error>>()?, kernel))
    })?;
    keep(device);
    Ok(modules::joined(made))
}

/// Compiles modules likewise.
///
/// # Errors
/// If the device refuses, or lacks something.
pub fn pipelines(device: &Device, modules: &[Module]) -> Result<Vec<Pipeline>, Error> {
    let made = each(modules, |module| Pipeline::new(device, module))?;
    keep(device);
    Ok(made)
}

fn keep(device: &Device) {
    if let Some(cache) = &device.cache {
        cache.save();
    }
}

/// Makes something of each item, on all cores.
fn each<T: Sync, U: Send>(items: &[T], make: impl Fn(&T) -> Result<U, Error> + Sync) -> Result<Vec<U>, Error> {
    let (mut good, mut refused) = (Vec::with_capacity(items.len()), Vec::new());
    for one in cores::map(items, make) {
        match one {
            Ok(one) => good.push(one),
            Err(error) if error.is_of_a_kernel() => refused.push(error),
            Err(error) => return Err(error),
        }
    }
    Error::all(refused).map_or(Ok(good), Err)
}

impl Pipeline {
    fn new(device: &Device, module: &Module) -> Result<Pipeline, Error> {
        let described = (0..).zip(&module.bindings).map(|(number, binding)| {
            let kind = match binding {
                Binding::Buffer => DescriptorType::StorageBuffer,
                Binding::One | Binding::Four => DescriptorType::UniformTexelBuffer,
            };
            let layout = DescriptorSetLayoutBinding {
                stages: ShaderStages::COMPUTE,
                ..DescriptorSetLayoutBinding::descriptor_type(kind)
            };
            (number, layout)
        });
        let set_layout = DescriptorSetLayout::new(
            Arc::clone(&device.device),
            DescriptorSetLayoutCreateInfo {
                bindings: described.collect(),
                ..DescriptorSetLayoutCreateInfo::default()
            },
        )
        .map_err(Error::of("describing a kernel's tensors"))?;
        let layout = PipelineLayout::new(
            Arc::clone(&device.device),
            PipelineLayoutCreateInfo {
                set_layouts: vec![Arc::clone(&set_layout)],
                push_constant_ranges: vec![PushConstantRange {
                    stages: ShaderStages::COMPUTE,
                    offset: 0,
                    size: 4 * module.pushed,
                }],
                ..PipelineLayoutCreateInfo::default()
            },
        )
        .map_err(Error::of("describing a kernel"))?;
        // SAFETY: the words are a valid module that stays within what is bound to it: `emit` made them, here or when an artefact was written,
        // which is trusted as any program is that one runs; the tests run `spirv-val` over what `emit` makes.
        let shader =
            unsafe { ShaderModule::new(Arc::clone(&device.device), ShaderModuleCreateInfo::new(&module.words)) }
                .map_err(Error::of("loading a kernel"))?;
        let entry = shader.entry_point("main").ok_or_else(|| Error::Refused {
            doing: "loading a kernel".to_owned(),
            reason: "the module has no entry point `main`".to_owned(),
        })?;
        let code = ComputePipeline::new(
            Arc::clone(&device.device),
            device.cache.as_ref().map(|cache| Arc::clone(&cache.pipelines)),
            ComputePipelineCreateInfo::stage_layout(PipelineShaderStageCreateInfo::new(entry), Arc::clone(&layout)),
        )
        .map_err(Error::of("compiling a kernel"))?;
        let [columns, rows] = module.groups;
        Ok(Pipeline {
            bindings: module.bindings.clone(),
            set_layout,
            layout,
            code,
            groups: [columns, rows, 1],
        })
    }
}
