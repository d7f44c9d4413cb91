//! Devices: which there are, which to take, what it can do.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use netloom_ir::DType;
use netloom_ir::decisions::Tuned;
use netloom_ir::target::{Matrices, Target, TargetKind};
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferUsage, Subbuffer};
use vulkano::command_buffer::allocator::{StandardCommandBufferAllocator, StandardCommandBufferAllocatorCreateInfo};
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType, SubgroupFeatures};
use vulkano::device::{DeviceCreateInfo, DeviceExtensions, DeviceFeatures, Queue, QueueCreateInfo, QueueFlags};
use vulkano::instance::debug::{
    DebugUtilsMessageSeverity, DebugUtilsMessageType, DebugUtilsMessenger, DebugUtilsMessengerCallback,
    DebugUtilsMessengerCreateInfo, ValidationFeatureEnable,
};
use vulkano::instance::{Instance, InstanceCreateInfo, InstanceExtensions};
use vulkano::memory::allocator::{
    AllocationCreateInfo, DeviceLayout, MemoryAllocatePreference, MemoryTypeFilter, StandardMemoryAllocator,
};
use vulkano::shader::ShaderStages;
use vulkano::{Validated, Version, VulkanError, VulkanLibrary};

use super::Error;
use super::cache::Cache;
use super::matrices;
use super::probe;
use super::spirv::Kind;
use crate::device::Floats;

/// What a program is compiled with where Vulkan leaves a choice to devices.
#[derive(Clone, Debug)]
pub struct Traits {
    /// 64-bit floats.
    pub float64: bool,
    /// 64-bit integers.
    pub int64: bool,
    /// 8-bit elements in memory.
    pub storage8: bool,
    /// 16-bit elements in memory.
    pub storage16: bool,
    /// Arithmetic of `f16`, because it was asked for.
    pub f16: bool,
    /// Whether `Fma` of `f32` rounds once.
    pub fuses32: bool,
    /// Whether `Fma` of `f64` rounds once.
    pub fuses64: bool,
    /// The most bytes that one binding spans.
    pub tensor_bytes: u64,
    /// The most bindings of a kernel.
    pub bindings: u32,
    /// The most bytes of push constants.
    pub push_bytes: u32,
    /// The most workgroups in each dimension of a dispatch.
    pub groups: [u32; 3],
    /// The most elements that are read through the view of a buffer as texels; 0 where storage buffers are read as quickly.
    pub texels: u64,
    /// The most bytes of an operand of the hand-written shader of matrix products; 0 where generated kernels are as fast, or the device lacks
    /// what the shader needs.
    pub product_bytes: u64,
    /// Invocations in a subgroup.
    pub subgroup: u32,
    /// Whether the invocations of a subgroup can hand each other values.
    pub shuffles: bool,
    /// The most invocations of a workgroup, in one dimension.
    pub group: u32,
    /// The most bytes that a workgroup shares.
    pub shared_bytes: u32,
    /// Whether workgroups fold and turn together where schedules can tell, rather than each invocation by itself.
    pub workgroups: bool,
    /// Matrices of halves that a subgroup multiplies at once, because f16 arithmetic was asked for.
    pub matrices: Option<Matrices>,
    /// The most bytes of a data set that are kept in the device's memory.
    pub data_bytes: u64,
    /// What the start of a binding is a multiple of, in bytes; every element's size divides it.
    pub binding_alignment: u64,
    /// What is promised of `f16` where it is computed with, and which modules then demand.
    pub floats16: Floats,
    /// Of `f32`.
    pub floats32: Floats,
    /// Of `f64`.
    pub floats64: Floats,
}

impl Traits {
    /// The bytes of each binding of a tensor that has several.
    pub fn window_bytes(&self) -> u64 {
        1 << self.tensor_bytes.ilog2()
    }

    /// What the device promises of a kind of float.
    pub fn floats(&self, kind: Kind) -> Floats {
        match kind {
            Kind::F16 => self.floats16,
            Kind::F64 => self.floats64,
            _ => self.floats32,
        }
    }

    /// Whether the device's own multiplication with addition rounds once.
    pub fn fuses(&self, kind: Kind) -> bool {
        match kind {
            Kind::F64 => self.fuses64,
            _ => self.fuses32,
        }
    }
}

/// A device as `netloom devices` lists it.
#[derive(Clone, Debug)]
pub struct Description {
    /// What `--device vulkan:N` calls it.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: &'static str,
    /// The driver and its version.
    pub driver: String,
    /// The version of Vulkan.
    pub api: String,
    /// Bytes of memory of its own.
    pub memory_bytes: u64,
    /// The most bytes of a tensor that are bound at once.
    pub tensor_bytes: u64,
    /// The most tensors that one kernel may touch.
    pub tensors: u32,
    /// Bytes of memory shared within a workgroup.
    pub shared_bytes: u32,
    /// Invocations in a subgroup.
    pub subgroup: u32,
    /// The most invocations of a workgroup.
    pub group: u32,
    /// The most bytes of one allocation.
    pub allocation_bytes: u64,
    /// Types and the like that it has: those of which netloom makes use.
    pub features: Vec<&'static str>,
    /// Those of which it does if asked ([`Options::f16_arithmetic`]).
    pub on_request: Vec<&'static str>,
    /// Those of which it does not.
    pub unused: Vec<&'static str>,
    /// What it promises of `f32`.
    pub floats32: Floats,
    /// Whether it computes at all, in a version of Vulkan that we take.
    pub usable: bool,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vulkan:{}  {} ({}), {}, Vulkan {}: {} MiB, blocks of {} MiB, bindings of {} MiB, {} in a kernel, groups of {}, {} KiB shared, \
             subgroups of {}; {}; on request: {}; not used: {}; f32 {}",
            self.number,
            self.name,
            self.kind,
            self.driver,
            self.api,
            self.memory_bytes >> 20,
            self.allocation_bytes >> 20,
            self.tensor_bytes >> 20,
            self.tensors,
            self.group,
            self.shared_bytes >> 10,
            self.subgroup,
            listed(&self.features),
            listed(&self.on_request),
            listed(&self.unused),
            self.floats32,
        )?;
        if !self.usable {
            write!(f, "; not usable: it needs Vulkan 1.2 and a compute queue")?;
        }
        Ok(())
    }
}

/// Names in a row.
fn listed(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    }
}

/// How devices of a type are called, and how gladly they are taken.
fn rank(kind: PhysicalDeviceType) -> (usize, &'static str) {
    match kind {
        PhysicalDeviceType::DiscreteGpu => (0, "discrete"),
        PhysicalDeviceType::IntegratedGpu => (1, "integrated"),
        PhysicalDeviceType::VirtualGpu => (2, "virtual"),
        PhysicalDeviceType::Cpu => (3, "cpu"),
        _ => (4, "other"),
    }
}

/// Every device of every driver, in the loader's order.
///
/// # Errors
/// If there is no loader, or it refuses.
pub fn list() -> Result<Vec<Description>, Error> {
    let (instance, _) = instance(None)?;
    Ok(physical_devices(&instance)?
        .iter()
        .enumerate()
        .map(|(number, device)| describe(number, device))
        .collect())
}

fn describe(number: usize, device: &PhysicalDevice) -> Description {
    let properties = device.properties();
    let heaps = &device.memory_properties().memory_heaps;
    let own = heaps
        .iter()
        .filter(|heap| heap.flags.intersects(vulkano::memory::MemoryHeapFlags::DEVICE_LOCAL));
    Description {
        number,
        name: properties.device_name.clone(),
        kind: rank(properties.device_type).1,
        driver: format!(
            "{} {}",
            properties.driver_name.as_deref().unwrap_or("driver"),
            properties.driver_info.as_deref().unwrap_or("")
        ),
        api: device.api_version().to_string(),
        memory_bytes: own.map(|heap| heap.size).sum(),
        tensor_bytes: properties.max_storage_buffer_range.into(),
        tensors: properties.max_per_stage_descriptor_storage_buffers,
        shared_bytes: properties.max_compute_shared_memory_size,
        subgroup: properties.subgroup_size.unwrap_or(1),
        group: group(device),
        allocation_bytes: properties.max_memory_allocation_size.unwrap_or(u64::MAX),
        features: features(device),
        on_request: on_request(device),
        unused: unused(device),
        floats32: floats(device, false)[1],
        usable: compute_family(device).is_some(),
    }
}

/// The features of which netloom makes use where they are, by short names.
fn features(device: &PhysicalDevice) -> Vec<&'static str> {
    let has = device.supported_features();
    let all = [
        (has.shader_float64, "f64"),
        (has.shader_int64, "i64"),
        (has.storage_buffer16_bit_access, "16-bit memory"),
        (has.storage_buffer8_bit_access, "8-bit memory"),
        (shuffles(device), "shuffles"),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

const F16: &str = "f16 arithmetic";
const MATRICES: &str = "cooperative matrices";

/// The features of which netloom makes use if asked.
fn on_request(device: &PhysicalDevice) -> Vec<&'static str> {
    let has_f16 = f16_lacks(device).is_none();
    let all = [
        (has_f16, F16),
        (has_f16 && matrices::of_halves(device).is_some(), MATRICES),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

/// The features that may be there and of which netloom makes no use.
fn unused(device: &PhysicalDevice) -> Vec<&'static str> {
    let (has, used) = (device.supported_features(), on_request(device));
    let all = [
        (has.shader_float16, F16),
        (has.shader_int8, "i8 arithmetic"),
        (has.shader_int16, "i16 arithmetic"),
        (has.cooperative_matrix, MATRICES),
    ];
    let found = all.into_iter().filter(|(has, name)| *has && !used.contains(name));
    found.map(|(_, name)| name).collect()
}

/// Whether eight invocations of a subgroup can hand each other values.
fn shuffles(device: &PhysicalDevice) -> bool {
    let limits = device.properties();
    let operations = SubgroupFeatures::BASIC | SubgroupFeatures::SHUFFLE;
    limits.subgroup_size.is_some_and(|size| size >= 8)
        && limits
            .subgroup_supported_stages
            .is_some_and(|stages| stages.intersects(ShaderStages::COMPUTE))
        && limits
            .subgroup_supported_operations
            .is_some_and(|found| found.contains(operations))
}

/// A family of queues that compute, if the device's Vulkan is new enough.
fn compute_family(device: &PhysicalDevice) -> Option<u32> {
    if device.api_version() < Version::V1_2 {
        return None;
    }
    let families = device.queue_family_properties();
    let found = families
        .iter()
        .position(|family| family.queue_flags.intersects(QueueFlags::COMPUTE));
    found.map(|family| family as u32)
}

fn physical_devices(instance: &Arc<Instance>) -> Result<Vec<Arc<PhysicalDevice>>, Error> {
    let devices = instance.enumerate_physical_devices();
    let refused = |error| Error::of("looking for Vulkan devices")(Validated::Error(error));
    Ok(devices.map_err(refused)?.collect())
}

/// What schedules want of a workgroup: invocations, and bytes that they share. Vulkan has every device offer as much.
const GROUP: u32 = 128;
const GROUP_BYTES: u32 = 16 << 10;

/// What the validation layers said.
type Messages = Arc<Mutex<Vec<String>>>;

/// The layer that checks every call.
const VALIDATION: &str = "VK_LAYER_KHRONOS_validation";

/// An instance, with what hands on the messages of the layers.
fn instance(validation: Option<&Messages>) -> Result<(Arc<Instance>, Option<DebugUtilsMessenger>), Error> {
    let library = VulkanLibrary::new().map_err(|error| Error::NoLoader {
        reason: super::words(error),
    })?;
    let mut info = InstanceCreateInfo {
        application_name: Some("netloom".to_owned()),
        max_api_version: Some(Version::V1_3),
        ..InstanceCreateInfo::default()
    };
    let mut messenger = None;
    if let Some(messages) = validation {
        let messages = Arc::clone(messages);
        // SAFETY: the callback makes no call to Vulkan.
        let callback = unsafe {
            DebugUtilsMessengerCallback::new(move |_, _, data| {
                let mut messages = messages.lock().unwrap_or_else(PoisonError::into_inner);
                messages.push(data.message.to_owned());
            })
        };
        info.enabled_layers = vec![VALIDATION.to_owned()];
        info.enabled_extensions = InstanceExtensions {
            ext_debug_utils: true,
            ext_validation_features: true,
            ..InstanceExtensions::empty()
        };
        info.enabled_validation_features = vec![ValidationFeatureEnable::SynchronizationValidation];
        messenger = Some(DebugUtilsMessengerCreateInfo {
            message_severity: DebugUtilsMessageSeverity::ERROR | DebugUtilsMessageSeverity::WARNING,
            message_type: DebugUtilsMessageType::VALIDATION | DebugUtilsMessageType::PERFORMANCE,
            ..DebugUtilsMessengerCreateInfo::user_callback(callback)
        });
    }
    let started = |error| match error {
        Validated::Error(VulkanError::IncompatibleDriver) => Error::NoDevice {
            found: ", for no driver is installed".to_owned(),
        },
        error => Error::of("starting Vulkan")(error),
    };
    let instance = Instance::new(library, info).map_err(&started)?;
    let messenger = messenger
        .map(|info| DebugUtilsMessenger::new(Arc::clone(&instance), info))
        .transpose()
        .map_err(&started)?;
    Ok((instance, messenger))
}

/// Where memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Where the device reads fastest.
    Device,
    /// Where the host reads and writes.
    Host,
}

/// Changes what a device is taken to do and to allow.
pub type Pretend = fn(&mut Traits);

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which; the best if not said.
    pub number: Option<usize>,
    /// Whether the validation layers check every call; see [`Device::messages`].
    pub validate: bool,
    /// The folder where compiled pipelines are kept, if they are.
    pub cache: Option<PathBuf>,
    /// Whether `f16` may be added, subtracted and multiplied as such, not in `f32`. Each result is rounded to nearest all the same, so no bit
    /// changes, but devices that do not promise to keep subnormal numbers may take results below 2⁻¹⁴ for zero. Contractions, other sums and all
    /// further functions are computed in `f32`; contractions by cooperative matrices, where the device has them, whose sums are taken in an order of its own.
    pub f16_arithmetic: bool,
    /// For tests of what other devices do and allow.
    pub pretend: Option<Pretend>,
}

impl Options {
    /// What users want: that number or the best, with the cache where caches are.
    pub fn usual(number: Option<usize>) -> Options {
        Options {
            number,
            validate: false,
            cache: super::cache::usual_folder(),
            f16_arithmetic: false,
            pretend: None,
        }
    }
}

/// An opened device with its queue.
pub struct Device {
    pub(super) device: Arc<vulkano::device::Device>,
    pub(super) queue: Arc<Queue>,
    pub(super) memory: Arc<StandardMemoryAllocator>,
    pub(super) commands: Arc<StandardCommandBufferAllocator>,
    pub(super) descriptors: Arc<StandardDescriptorSetAllocator>,
    /// What it is.
    pub description: Description,
    /// What it does.
    pub traits: Traits,
    pub(super) cache: Option<Cache>,
    messages: Messages,
    _messenger: Option<DebugUtilsMessenger>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.description)
    }
}

impl Device {
    /// Opens a device: that number, or the best, discrete before integrated before those that are CPUs.
    ///
    /// # Errors
    /// If there is none, it lacks what was asked for, or there are no layers to validate with.
    pub fn open(options: &Options) -> Result<Arc<Device>, Error> {
        let messages = Messages::default();
        let (instance, messenger) = instance(options.validate.then_some(&messages))?;
        let number = options.number;
        let devices = physical_devices(&instance)?;
        let usable = |device: &&Arc<PhysicalDevice>| compute_family(device).is_some();
        let chosen = match number {
            Some(number) => devices.get(number).ok_or(Error::UnknownDevice {
                number,
                count: devices.len(),
            })?,
            None => {
                let best = devices.iter().filter(usable);
                best.min_by_key(|device| rank(device.properties().device_type).0)
                    .ok_or_else(|| Error::NoDevice { found: found(&devices) })?
            }
        };
        let Some(family) = compute_family(chosen) else {
            return Err(Error::NoDevice { found: found(&devices) });
        };
        if options.f16_arithmetic
            && let Some(what) = f16_lacks(chosen)
        {
            return Err(Error::LacksAsked {
                device: chosen.properties().device_name.clone(),
                what,
                asked: F16,
            });
        }
        let matrices = options.f16_arithmetic.then(|| matrices::of_halves(chosen)).flatten();
        let has = chosen.supported_features();
        let features = DeviceFeatures {
            shader_float16: options.f16_arithmetic,
            cooperative_matrix: matrices.is_some(),
            vulkan_memory_model: matrices.is_some(),
            shader_float64: has.shader_float64,
            shader_int64: has.shader_int64,
            storage_buffer8_bit_access: has.storage_buffer8_bit_access,
            storage_buffer16_bit_access: has.storage_buffer16_bit_access,
            ..DeviceFeatures::empty()
        };
        let (device, mut queues) = vulkano::device::Device::new(
            Arc::clone(chosen),
            DeviceCreateInfo {
                enabled_features: features,
                enabled_extensions: DeviceExtensions {
                    khr_cooperative_matrix: matrices.is_some(),
                    ..DeviceExtensions::empty()
                },
                queue_create_infos: vec![QueueCreateInfo {
                    queue_family_index: family,
                    ..QueueCreateInfo::default()
                }],
                ..DeviceCreateInfo::default()
            },
        )
        .map_err(Error::of("opening the Vulkan device"))?;
        let queue = queues.next().expect("one queue was asked for");
        let number = devices
            .iter()
            .position(|device| device == chosen)
            .expect("it was chosen among them");
        let limits = chosen.properties();
        let description = describe(number, chosen);
        let [floats16, floats32, floats64] = floats(chosen, options.f16_arithmetic);
        // States lie in one block, and what is computed wants memory too: half of either is a guess.
        let data_bytes = description.memory_bytes.min(description.allocation_bytes) / 2;
        let opened = Device {
            memory: Arc::new(StandardMemoryAllocator::new_default(Arc::clone(&device))),
            commands: Arc::new(StandardCommandBufferAllocator::new(
                Arc::clone(&device),
                StandardCommandBufferAllocatorCreateInfo::default(),
            )),
            descriptors: Arc::new(StandardDescriptorSetAllocator::new(
                Arc::clone(&device),
                Default::default(),
            )),
            description,
            traits: Traits {
                float64: features.shader_float64,
                int64: features.shader_int64,
                storage8: features.storage_buffer8_bit_access,
                storage16: features.storage_buffer16_bit_access,
                f16: features.shader_float16,
                fuses32: true,
                fuses64: true,
                tensor_bytes: limits.max_storage_buffer_range.into(),
                bindings: limits.max_per_stage_descriptor_storage_buffers,
                push_bytes: limits.max_push_constants_size,
                groups: limits.max_compute_work_group_count,
                texels: texels(chosen),
                product_bytes: product_bytes(chosen),
                subgroup: limits.subgroup_size.unwrap_or(1),
                shuffles: shuffles(chosen),
                group: group(chosen),
                shared_bytes: limits.max_compute_shared_memory_size,
                workgroups: limits.device_type != PhysicalDeviceType::Cpu,
                matrices,
                data_bytes,
                binding_alignment: (limits.min_storage_buffer_offset_alignment.as_devicesize())
                    .max(limits.min_texel_buffer_offset_alignment.as_devicesize())
                    .max(16),
                floats16,
                floats32,
                floats64,
            },
            cache: options.cache.as_deref().and_then(|folder| Cache::open(folder, &device)),
            device,
            queue,
            messages,
            _messenger: messenger,
        };
        // Vulkan does not say whether a multiplication with addition rounds once, so it is tried.
        let asked = Arc::new(opened);
        let fuses32 = probe::fuses(&asked, DType::F32)?;
        let fuses64 = asked.traits.float64 && probe::fuses(&asked, DType::F64)?;
        let mut opened = Arc::into_inner(asked).expect("what was run has ended");
        (opened.traits.fuses32, opened.traits.fuses64) = (fuses32, fuses64);
        if let Some(pretend) = options.pretend {
            pretend(&mut opened.traits);
        }
        Ok(Arc::new(opened))
    }

    /// What schedules are made for.
    pub fn target(&self) -> Target {
        // A CPU that plays a GPU has few threads. It could keep more results, on its stack: with 256 a step of LeNet is 8 % faster, but what is written
        // out takes four times as long to compile.
        let invocations = match self.description.kind {
            "cpu" => 128,
            _ => 16384,
        };
        Target {
            kind: TargetKind::Vulkan,
            vector_lanes: 4,
            vector_registers: 64,
            invocations,
            share_from: 0,
            product_bytes: usize::try_from(self.traits.product_bytes).unwrap_or(usize::MAX),
            workgroups: self.traits.workgroups && self.traits.group >= GROUP && self.traits.shared_bytes >= GROUP_BYTES,
            winograd: true,
            pieces: false,
            f16: self.traits.f16,
            matrices: self.traits.matrices,
            tuned: Tuned::NOTHING,
        }
    }

    /// What the validation layers have said since the last call.
    pub fn messages(&self) -> Vec<String> {
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device, for what this module does not offer.
    pub fn handle(&self) -> &Arc<vulkano::device::Device> {
        &self.device
    }

    /// Memory, at least so many bytes, and at least 256.
    pub(super) fn block(&self, bytes: u64, home: Home) -> Result<Subbuffer<[u8]>, Error> {
        let bytes = bytes.max(256).next_multiple_of(4);
        let usage = BufferUsage::STORAGE_BUFFER
            | BufferUsage::UNIFORM_TEXEL_BUFFER
            | BufferUsage::TRANSFER_SRC
            | BufferUsage::TRANSFER_DST;
        let filter = match home {
            Home::Device => MemoryTypeFilter::PREFER_DEVICE,
            Home::Host => MemoryTypeFilter::PREFER_HOST | MemoryTypeFilter::HOST_RANDOM_ACCESS,
        };
        let refused = |reason: String| Error::Memory { bytes, reason };
        let layout = DeviceLayout::from_size_alignment(bytes, 256).ok_or_else(|| refused("that is too much".into()))?;
        let buffer = Buffer::new(
            self.memory.clone(),
            BufferCreateInfo {
                usage,
                ..BufferCreateInfo::default()
            },
            AllocationCreateInfo {
                memory_type_filter: filter,
                allocate_preference: MemoryAllocatePreference::Unknown,
                ..AllocationCreateInfo::default()
            },
            layout,
        );
        buffer.map(Subbuffer::new).map_err(|error| refused(super::words(error)))
    }
}

/// What there is where nothing is usable.
fn found(devices: &[Arc<PhysicalDevice>]) -> String {
    let names: Vec<String> = devices
        .iter()
        .map(|device| {
            format!(
                "`{}` (Vulkan {})",
                device.properties().device_name,
                device.api_version()
            )
        })
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(
            ", for that takes Vulkan 1.2 and a compute queue; there is {}",
            names.join(", ")
        ),
    }
}

/// The most invocations of a workgroup that has one dimension.
fn group(device: &PhysicalDevice) -> u32 {
    let limits = device.properties();
    limits
        .max_compute_work_group_invocations
        .min(limits.max_compute_work_group_size[0])
}

/// What [`Traits::texels`] is on a device.
///
/// lavapipe, a CPU that plays a GPU, reads a storage buffer by a loop over the invocations of a subgroup, in 72 cycles; texels it gathers
/// at once, in 24. GPUs have no such difference, and their units for textures may be fewer.
fn texels(device: &PhysicalDevice) -> u64 {
    let limits = device.properties();
    // A kernel has a push constant for each of its tensors, and each has at most two views.
    let has_enough = limits.max_per_stage_descriptor_sampled_images >= limits.max_push_constants_size / 2;
    match limits.device_type {
        PhysicalDeviceType::Cpu if has_enough => limits.max_texel_buffer_elements.into(),
        _ => 0,
    }
}

/// What [`Traits::product_bytes`] is on a device.
///
/// The shader is ahead of generated kernels where texels are gathered and shuffles cost little (lavapipe: twice as fast). Nobody has measured it on a
/// GPU, where products want memory that a workgroup shares.
fn product_bytes(device: &PhysicalDevice) -> u64 {
    let limits = device.properties();
    let quads = u64::from(limits.max_texel_buffer_elements) * 16;
    match texels(device) {
        1.. if shuffles(device) => quads.min(limits.max_storage_buffer_range.into()) - 4096,
        _ => 0,
    }
}

/// What f16 arithmetic needs and a device lacks. Rounding to nearest is among it, so that results do not depend on the device.
fn f16_lacks(device: &PhysicalDevice) -> Option<&'static str> {
    let has = device.supported_features();
    let needed = [
        (has.shader_float16, "16-bit floats (shaderFloat16)"),
        (
            has.storage_buffer16_bit_access,
            "16-bit elements in memory (storageBuffer16BitAccess)",
        ),
        (
            floats(device, true)[0].nearest,
            "rounding of 16-bit floats to nearest (shaderRoundingModeRTEFloat16)",
        ),
    ];
    needed.into_iter().find(|(has, _)| !has).map(|(_, what)| what)
}

/// What is promised of `f16`, `f32` and `f64`, where modules compute with `f16` or not.
fn floats(device: &PhysicalDevice, f16: bool) -> [Floats; 3] {
    let (has, properties) = (device.supported_features(), device.properties());
    let half = [
        properties.shader_rounding_mode_rte_float16,
        properties.shader_denorm_preserve_float16,
        properties.shader_signed_zero_inf_nan_preserve_float16,
    ];
    let narrow = [
        properties.shader_rounding_mode_rte_float32,
        properties.shader_denorm_preserve_float32,
        properties.shader_signed_zero_inf_nan_preserve_float32,
    ];
    let wide = [
        properties.shader_rounding_mode_rte_float64,
        properties.shader_denorm_preserve_float64,
        properties.shader_signed_zero_inf_nan_preserve_float64,
    ];
    // Where widths may not differ, a mode is demanded of all that there are or of `f32` alone.
    let is_used = [f16, true, has.shader_float64];
    let all = [0, 1, 2].map(|mode| {
        let mut used = [half, narrow, wide]
            .into_iter()
            .zip(is_used)
            .filter(|(_, is_used)| *is_used);
        Some(used.all(|(width, _)| width[mode] == Some(true)))
    });
    let floats = |[nearest, subnormals, specials]: [Option<bool>; 3], least: f64| Floats {
        nearest: nearest == Some(true),
        least: if subnormals == Some(true) { 0.0 } else { least },
        specials: specials == Some(true),
    };
    [
        floats(all, f64::powi(2.0, -14)),
        floats(narrow, f32::MIN_POSITIVE.into()),
        floats(all, f64::MIN_POSITIVE),
    ]
}
