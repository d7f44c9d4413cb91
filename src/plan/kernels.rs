//! The kernels of an executable: each distinct one is scheduled and compiled once, however many regions it serves.

use std::collections::HashMap;

use netloom_ir::Target;
use netloom_ir::fuse::Region;
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::{Kernel, Nest, build};
use netloom_ir::layout::Layout;

use crate::compile::Stages;
use crate::schedule;

/// A kernel of an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub usize);

/// What makes kernels of regions and nests of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Makers {
    /// From a region to a kernel.
    pub build: fn(&Graph, &Region) -> Kernel,
    /// From a kernel to a nest.
    pub choose: fn(&Kernel, &Target) -> Nest,
}

impl Makers {
    /// The ones there are; tests have others, to see that what is wrong is found.
    pub const USUAL: Makers = Makers {
        build: build::build,
        choose: schedule::choose,
    };
}

/// The distinct kernels of an executable, with their schedules.
#[derive(Clone, Debug)]
pub struct Kernels {
    makers: Makers,
    target: Target,
    kernels: Vec<Kernel>,
    nests: Vec<Nest>,
    known: HashMap<u64, Vec<KernelId>>,
    /// How long building and scheduling took.
    pub stages: Stages,
}

impl Kernels {
    /// None yet, for a target.
    pub fn new(target: Target) -> Kernels {
        Kernels::made_by(Makers::USUAL, target)
    }

    /// None yet, made in a certain way.
    pub fn made_by(makers: Makers, target: Target) -> Kernels {
        Kernels {
            makers,
            target,
            kernels: Vec::new(),
            nests: Vec::new(),
            known: HashMap::new(),
            stages: Stages::default(),
        }
    }

    /// The kernel of a region whose values have these layouts: built, and scheduled unless an equal one is known.
    pub fn add(&mut self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> KernelId {
        let mut kernel = self.stages.time("loops", || (self.makers.build)(graph, region));
        let values = region.inputs.iter().chain(&region.outputs);
        for (buffer, id) in kernel.buffers.iter_mut().zip(values) {
            buffer.ty.layout = layouts.get(id).cloned().unwrap_or_default();
        }
        let key = kernel.key();
        let known = self.known.entry(key).or_default();
        if let Some(&id) = known.iter().find(|id| self.kernels[id.0].is_same(&kernel)) {
            return id;
        }
        let id = KernelId(self.kernels.len());
        let mut nest = self
            .stages
            .time("decide", || (self.makers.choose)(&kernel, &self.target));
        nest.name = format!("k{}_{}", id.0, name(graph, region));
        self.kernels.push(kernel);
        self.nests.push(nest);
        known.push(id);
        id
    }

    /// The number of distinct kernels.
    pub fn len(&self) -> usize {
        self.kernels.len()
    }

    /// Of how many something is decided by [`Target::tuned`].
    pub fn tuned_count(&self) -> usize {
        match &self.target.tuned {
            nothing if nothing.is_empty() => 0,
            tuned => self
                .kernels
                .iter()
                .filter(|kernel| tuned.get(kernel.key()).is_some())
                .count(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kernels.is_empty()
    }

    /// Every kernel, in order.
    pub fn ids(&self) -> impl Iterator<Item = KernelId> + use<> {
        (0..self.kernels.len()).map(KernelId)
    }

    /// The algorithm of a kernel.
    pub fn kernel(&self, id: KernelId) -> &Kernel {
        &self.kernels[id.0]
    }

    /// The schedule of a kernel.
    pub fn nest(&self, id: KernelId) -> &Nest {
        &self.nests[id.0]
    }

    /// Every schedule, in order.
    pub fn nests(&self) -> &[Nest] {
        &self.nests
    }
}

/// The first few ops of a region, for names in dumps and symbols.
fn name(graph: &Graph, region: &Region) -> String {
    let mut names: Vec<&str> = region.nodes.iter().map(|&id| graph.node(id).op.name()).collect();
    names.dedup();
    if names.len() > 4 {
        names.drain(2..names.len() - 2);
    }
    names.join("_")
}
