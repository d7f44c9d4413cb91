//! The kernels of an executable: each distinct one is scheduled and compiled once, however many regions it serves.

use std::collections::HashMap;

use netloom_ir::Target;
use netloom_ir::fuse::Region;
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::{Kernel, Nest, build};
use netloom_ir::layout::Layout;
use netloom_ir::target::TargetKind;

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

    /// The kernel of a region whose values have these layouts.
    fn kernel(self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Kernel {
        let mut kernel = (self.build)(graph, region);
        let values = region.inputs.iter().chain(&region.outputs);
        for (buffer, id) in kernel.buffers.iter_mut().zip(values) {
            buffer.ty.layout = layouts.get(id).cloned().unwrap_or_default();
        }
        kernel
    }
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

    /// The kernel of a region whose values have these layouts: built, and scheduled unless an equal one is known. On a CPU a region may come with
    /// its schedule.
    pub fn add(&mut self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> KernelId {
        let makers = self.makers;
        let kernel = self.stages.time("loops", || makers.kernel(graph, region, layouts));
        let given = region.nest.as_deref().filter(|_| self.target.kind == TargetKind::Cpu);
        if let Some(id) = self.known(&kernel, given) {
            return id;
        }
        let id = KernelId(self.kernels.len());
        let choose = || given.map_or_else(|| (makers.choose)(&kernel, &self.target), Nest::clone);
        let mut nest = self.stages.time("decide", choose);
        nest.name = format!("k{}_{}", id.0, name(graph, region));
        self.known.entry(kernel.key()).or_default().push(id);
        self.kernels.push(kernel);
        self.nests.push(nest);
        id
    }

    /// The schedule of a region whose values have these layouts, if it has been added.
    pub fn nest_of(&self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Option<&Nest> {
        let id = self.known(&self.makers.kernel(graph, region, layouts), None)?;
        Some(self.nest(id))
    }

    /// An equal kernel, with the given schedule if there is one.
    fn known(&self, kernel: &Kernel, given: Option<&Nest>) -> Option<KernelId> {
        let is_it = |id: &&KernelId| {
            let is_so = |given: &Nest| given.is_same(self.nest(**id));
            self.kernel(**id).is_same(kernel) && given.is_none_or(is_so)
        };
        self.known.get(&kernel.key())?.iter().find(is_it).copied()
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
