//! Kernels as modules: everything of a nest that a device, or another program, needs to run it, as data.
//!
//! In: a nest and the traits of a device. Out: a [`Module`] for each part between two barriers, of which [`super::code`] makes pipelines and
//! [`super::script`] files, and a [`Kernel`], from which [`super::commands`] learns what to bind.

use std::ops::Range;

use netloom_ir::kernel::{Nest, Role};

use super::Error;
use super::device::Traits;
use super::emit::{self, Phase, Views};
use super::spirv;

/// Bytes to which every binding of ours in scratch is aligned: what any device may demand.
pub const ALIGN: u64 = 256;

/// What a binding shows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A storage buffer.
    Buffer,
    /// A view as texels of one `f32`.
    One,
    /// A view as texels of four.
    Four,
}

/// A part of a kernel.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its SPIR-V, with the entry point `main`.
    pub words: Vec<u32>,
    /// What it is given, by the number of the binding in set 0.
    pub bindings: Vec<Binding>,
    /// Words of push constants.
    pub pushed: u32,
    /// Work groups, in two dimensions.
    pub groups: [u32; 2],
}

/// A kernel as commands know it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The first of its modules, which follow each other.
    pub first: usize,
    /// By module: the buffers that it touches, each with whether it writes.
    pub touched: Vec<Vec<(usize, bool)>>,
    /// By buffer of the nest.
    pub buffers: Vec<Bound>,
    /// Bytes of scratch that its invocations have to themselves, all together.
    pub scratch_bytes: u64,
}

/// A buffer of a kernel.
#[derive(Clone, Debug)]
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

/// The modules of a nest, and the kernel that they are, as if it were the first.
///
/// # Errors
/// If the device lacks something, or allows too little.
pub fn of(nest: &Nest, traits: &Traits) -> Result<(Vec<Module>, Kernel), Error> {
    let phases = emit::emit(nest, traits)?;
    let phases = phases.iter().filter(|phase| phase.invocations > 0);
    let most_bound = traits.bindings;
    let most = most_bound.min(traits.push_bytes / 4);
    let count = nest.buffers.len() as u32;
    let bindings = emit::bindings(nest, traits);
    let bound = bindings.last().map_or(0, |last| last.end);
    if bound > most_bound && count <= most {
        let each = traits.window_bytes();
        return Err(Error::OverLimit {
            what: format!(
                "the number of bindings of kernel `{}`, one for each {each} bytes of a tensor that is larger than maxStorageBufferRange,",
                nest.name
            ),
            size: bound.into(),
            limit: most_bound.into(),
            name: "maxPerStageDescriptorStorageBuffers",
        });
    }
    if count > most {
        return Err(Error::OverLimit {
            what: format!("the number of tensors of kernel `{}`", nest.name),
            size: count.into(),
            limit: most.into(),
            name: "maxPerStageDescriptorStorageBuffers, maxPushConstantsSize / 4",
        });
    }
    let views = emit::views(nest, traits);
    let viewed = (views.iter())
        .flat_map(|views| [(views.one, Binding::One), (views.four, Binding::Four)])
        .filter_map(|(number, binding)| Some((number?, binding)));
    let shown: Vec<Binding> = (0..bound)
        .map(|_| Binding::Buffer)
        .chain(viewed.zip(bound..).map(|((number, binding), next)| {
            assert_eq!(number, next, "views are numbered in order");
            binding
        }))
        .collect();
    let modules = phases.clone().map(|phase| {
        Ok(Module {
            words: spirv::words(&phase.module),
            bindings: shown.clone(),
            pushed: count.max(1),
            groups: groups(nest, phase, traits)?,
        })
    });
    let modules = modules.collect::<Result<_, Error>>()?;
    let mut scratch_bytes = 0;
    let buffers = (nest.buffers.iter().zip(bindings).zip(views)).map(|((buffer, bindings), views)| {
        let scratch = (buffer.role == Role::WorkerScratch).then(|| {
            let (offset, bytes) = (scratch_bytes, emit::bytes(nest, buffer));
            scratch_bytes += bytes.next_multiple_of(ALIGN);
            (offset, bytes)
        });
        Bound {
            bindings,
            views,
            element_bytes: buffer.ty.dtype.size_bytes() as u64,
            scratch,
        }
    });
    Ok((
        modules,
        Kernel {
            first: 0,
            buffers: buffers.collect(),
            touched: phases.map(|phase| phase.touched.clone()).collect(),
            scratch_bytes,
        },
    ))
}

/// What was made of several nests as one list, and the kernels that begin at their places in it.
pub fn joined<T>(parts: impl IntoIterator<Item = (Vec<T>, Kernel)>) -> (Vec<T>, Vec<Kernel>) {
    let (mut all, mut kernels) = (Vec::new(), Vec::new());
    for (made, kernel) in parts {
        kernels.push(Kernel {
            first: all.len(),
            ..kernel
        });
        all.extend(made);
    }
    (all, kernels)
}

/// Work groups for the invocations of a phase, in two dimensions.
fn groups(nest: &Nest, phase: &Phase, traits: &Traits) -> Result<[u32; 2], Error> {
    let [most_columns, most_rows, _] = traits.groups.map(u64::from);
    let groups = phase.invocations.div_ceil(phase.group.into());
    let rows = groups.div_ceil(most_columns);
    if rows > most_rows || phase.invocations > i32::MAX as u64 {
        return Err(Error::OverLimit {
            what: format!("the number of invocations of kernel `{}`", nest.name),
            size: phase.invocations,
            limit: (most_columns * most_rows * u64::from(phase.group)).min(i32::MAX as u64),
            name: "maxComputeWorkGroupCount",
        });
    }
    Ok([groups.div_ceil(rows) as u32, rows as u32])
}
