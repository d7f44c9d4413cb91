//! Kernels as pipelines.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use netloom_ir::kernel::{Nest, Role};
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::pipeline::compute::ComputePipelineCreateInfo;
use vulkano::pipeline::layout::{PipelineLayout, PipelineLayoutCreateInfo, PushConstantRange};
use vulkano::pipeline::{ComputePipeline, PipelineShaderStageCreateInfo};
use vulkano::shader::{ShaderModule, ShaderModuleCreateInfo, ShaderStages};

use super::device::Device;
use super::emit::{self, Phase, Views};
use super::{Error, spirv};

/// Bytes to which every binding of ours in scratch is aligned: what any device may demand.
pub const ALIGN: u64 = 256;

/// A kernel ready to be dispatched.
pub struct Kernel {
    /// The nest's name.
    pub name: String,
    /// Of its one set.
    pub set_layout: Arc<DescriptorSetLayout>,
    /// With the push constants.
    pub layout: Arc<PipelineLayout>,
    /// One after the other.
    pub phases: Vec<Dispatch>,
    /// By buffer of the nest.
    pub buffers: Vec<Bound>,
    /// Bytes of scratch that its invocations have to themselves, all together.
    pub scratch_bytes: u64,
}

/// A buffer of a kernel.
pub struct Bound {
    /// Its bindings.
    pub bindings: Range<u32>,
    /// The bindings of its views as texels.
    pub views: Views,
    /// Bytes of an element.
    pub element_bytes: u64,
    /// Where it lies in scratch, if it is worker scratch: offset and length.
    pub scratch: Option<(u64, u64)>,
}

/// One phase of a kernel.
pub struct Dispatch {
    /// Its code.
    pub pipeline: Arc<ComputePipeline>,
    /// Groups in two dimensions.
    pub groups: [u32; 3],
    /// The buffers it touches, each with whether it writes.
    pub touched: Vec<(usize, bool)>,
}

/// Compiles every nest, on all cores, and keeps what the driver has made of them for the next time.
///
/// # Errors
/// If the device refuses, or lacks something: then for every kernel for which it does.
pub fn kernels(device: &Device, nests: &[Nest]) -> Result<Vec<Kernel>, Error> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(nests.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let numbers = numbers.take_while(|&number| number < nests.len());
        numbers
            .map(|number| (number, Kernel::new(device, &nests[number])))
            .collect::<Vec<_>>()
    };
    let mut made = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let parts = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        parts.flatten().collect::<Vec<_>>()
    });
    made.sort_by_key(|(number, _)| *number);
    let (mut kernels, mut refused) = (Vec::with_capacity(nests.len()), Vec::new());
    for (_, kernel) in made {
        match kernel {
            Ok(kernel) => kernels.push(kernel),
            Err(error) if error.is_of_a_kernel() => refused.push(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = Error::all(refused) {
        return Err(error);
    }
    if let Some(cache) = &device.cache {
        cache.save();
    }
    Ok(kernels)
}

impl Kernel {
    /// Emits a nest and makes its pipelines.
    ///
    /// # Errors
    /// If the device lacks something or refuses.
    pub fn new(device: &Device, nest: &Nest) -> Result<Kernel, Error> {
        let phases = emit::emit(nest, &device.traits)?;
        let most_bound = device.traits.bindings;
        let most = most_bound.min(device.traits.push_bytes / 4);
        let count = nest.buffers.len() as u32;
        let bindings = emit::bindings(nest, &device.traits);
        let bound = bindings.last().map_or(0, |last| last.end);
        if bound > most_bound || count > most {
            return Err(Error::OverLimit {
                what: format!("the number of tensors of kernel `{}`", nest.name),
                size: bound.into(),
                limit: most.into(),
                name: "maxPerStageDescriptorStorageBuffers, maxPushConstantsSize / 4",
            });
        }
        let views = emit::views(nest, &device.traits);
        let described = (0..bound)
            .map(|binding| (binding, DescriptorType::StorageBuffer))
            .chain(
                (views.iter().flat_map(|views| [views.one, views.four]).flatten())
                    .map(|binding| (binding, DescriptorType::UniformTexelBuffer)),
            )
            .map(|(binding, descriptor)| {
                let layout = DescriptorSetLayoutBinding {
                    stages: ShaderStages::COMPUTE,
                    ..DescriptorSetLayoutBinding::descriptor_type(descriptor)
                };
                (binding, layout)
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
                    size: 4 * count.max(1),
                }],
                ..PipelineLayoutCreateInfo::default()
            },
        )
        .map_err(Error::of("describing a kernel"))?;
        let mut scratch_bytes = 0;
        let buffers = nest
            .buffers
            .iter()
            .zip(bindings.into_iter().zip(views))
            .map(|(buffer, (bindings, views))| {
                let scratch = (buffer.role == Role::WorkerScratch).then(|| {
                    let bytes = emit::bytes(nest, buffer);
                    let offset = scratch_bytes;
                    scratch_bytes += bytes.next_multiple_of(ALIGN);
                    (offset, bytes)
                });
                Bound {
                    bindings,
                    views,
                    element_bytes: buffer.ty.dtype.size_bytes() as u64,
                    scratch,
                }
            })
            .collect();
        let phases = phases
            .iter()
            .filter(|phase| phase.invocations > 0)
            .map(|phase| dispatch(device, nest, &layout, phase))
            .collect::<Result<_, _>>()?;
        Ok(Kernel {
            name: nest.name.clone(),
            set_layout,
            layout,
            phases,
            buffers,
            scratch_bytes,
        })
    }
}

fn dispatch(device: &Device, nest: &Nest, layout: &Arc<PipelineLayout>, phase: &Phase) -> Result<Dispatch, Error> {
    let most = device.traits.groups;
    let groups = phase.invocations.div_ceil(phase.group.into());
    let rows = groups.div_ceil(most[0].into());
    if rows > most[1].into() || phase.invocations > i32::MAX as u64 {
        return Err(Error::OverLimit {
            what: format!("the number of invocations of kernel `{}`", nest.name),
            size: phase.invocations,
            limit: (u64::from(most[0]) * u64::from(most[1]) * u64::from(phase.group)).min(i32::MAX as u64),
            name: "maxComputeWorkGroupCount",
        });
    }
    let columns = groups.div_ceil(rows.max(1));
    let words = spirv::words(&phase.module);
    // SAFETY: the words are a valid module: `emit` made them, and the tests run `spirv-val` over what it makes.
    let module = unsafe { ShaderModule::new(Arc::clone(&device.device), ShaderModuleCreateInfo::new(&words)) }
        .map_err(Error::of("loading a kernel"))?;
    let entry = module.entry_point("main").expect("every module has it");
    let pipeline = ComputePipeline::new(
        Arc::clone(&device.device),
        device.cache.as_ref().map(|cache| Arc::clone(&cache.pipelines)),
        ComputePipelineCreateInfo::stage_layout(PipelineShaderStageCreateInfo::new(entry), Arc::clone(layout)),
    )
    .map_err(Error::of("compiling a kernel"))?;
    Ok(Dispatch {
        pipeline,
        groups: [columns as u32, rows as u32, 1],
        touched: phase.touched.clone(),
    })
}
