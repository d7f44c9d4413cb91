//! The kernels of an executable: each distinct one is scheduled and compiled once, however many regions it serves.

use std::collections::HashMap;
use std::sync::Arc;

use netloom_ir::Target;
use netloom_ir::fuse::Region;
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::{Kernel, Nest, build};
use netloom_ir::layout::Layout;
use netloom_ir::target::TargetKind;

use crate::compile::Stages;
use crate::cores;
use crate::schedule;

use super::KernelId;

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
    /// The schedules that came with the regions, by kernel.
    given: Vec<Option<Arc<Nest>>>,
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
            given: Vec::new(),
            known: HashMap::new(),
            stages: Stages::default(),
        }
    }

    /// The kernels of regions whose values have these layouts: built, and scheduled by all cores unless an equal one is known. On a CPU a region may
    /// come with its schedule.
    pub fn add(&mut self, graph: &Graph, regions: &[&Region], layouts: &HashMap<NodeId, Layout>) -> Vec<KernelId> {
        let (makers, first) = (self.makers, self.kernels.len());
        let built: Vec<Kernel> = self.stages.time("loops", || {
            let kernels = regions.iter().map(|region| makers.kernel(graph, region, layouts));
            kernels.collect()
        });
        let mut names = Vec::new();
        let ids = built.into_iter().zip(regions).map(|(kernel, region)| {
            let given = region.nest.clone().filter(|_| self.target.kind == TargetKind::Cpu);
            let key = kernel.key();
            self.known(key, &kernel, given.as_deref()).unwrap_or_else(|| {
                let id = KernelId(self.kernels.len());
                self.known.entry(key).or_default().push(id);
                self.kernels.push(kernel);
                self.given.push(given);
                names.push(format!("k{}_{}", id.0, name(graph, region)));
                id
            })
        });
        let ids = ids.collect();
        let fresh: Vec<_> = self.kernels[first..].iter().zip(&self.given[first..]).collect();
        let chosen = self.stages.time("decide", || {
            cores::map(&fresh, |(kernel, given)| match given {
                Some(given) => Nest::clone(given),
                None => (makers.choose)(kernel, &self.target),
            })
        });
        self.nests
            .extend(chosen.into_iter().zip(names).map(|(nest, name)| Nest { name, ..nest }));
        ids
    }

    /// The schedule of a region whose values have these layouts, if it has been added.
    pub fn nest_of(&self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Option<&Nest> {
        let kernel = self.makers.kernel(graph, region, layouts);
        let id = self.known(kernel.key(), &kernel, None)?;
        Some(self.nest(id))
    }

    /// An equal kernel, which came with the same schedule if there is one.
    fn known(&self, key: u64, kernel: &Kernel, given: Option<&Nest>) -> Option<KernelId> {
        let is_it = |id: &&KernelId| {
            let own = self.given[id.0].as_deref();
            let is_given = |given: &Nest| own.is_some_and(|own| given.name == own.name && given.is_same(own));
            self.kernel(**id).is_same(kernel) && given.is_none_or(is_given)
        };
        self.known.get(&key)?.iter().find(is_it).copied()
    }

    /// The kernel whose schedule came under that name.
    ///
    /// # Errors
    /// If there is none, or several that differ, what is wrong.
    pub(super) fn given_as(&self, name: &str) -> Result<KernelId, String> {
        let named = self.given.iter().enumerate();
        let mut named =
            named.filter_map(|(at, given)| Some((KernelId(at), given.as_ref()?)).filter(|(_, nest)| nest.name == name));
        let (id, nest) = named
            .next()
            .ok_or_else(|| format!("no region of the program has a nest `{name}`"))?;
        match named.all(|(_, other)| other.is_same(nest)) {
            true => Ok(id),
            false => Err(format!(
                "several regions of the program have nests `{name}`, and these differ"
            )),
        }
    }

    /// What they are made for.
    pub fn target(&self) -> &Target {
        &self.target
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
