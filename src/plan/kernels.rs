//! The kernels of an executable: each distinct one is scheduled and compiled once, however many regions it serves.

use std::collections::HashMap;
use std::sync::Arc;

use netloom_ir::fuse::{Given, Region};
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::verify::{Broken, verify};
use netloom_ir::kernel::{Kernel, Nest, build};
use netloom_ir::layout::Layout;
use netloom_ir::{Loc, Problem, Problems, Target};

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

    /// The kernel of a region: the one that it came with, or else a new one.
    fn dense_kernel(self, graph: &Graph, region: &Region) -> Kernel {
        match &region.given {
            Some(Given::Kernel(kernel)) => Kernel::clone(kernel),
            Some(Given::Nest(_)) | None => (self.build)(graph, region),
        }
    }

    /// The same if its values have these layouts.
    fn kernel(self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Kernel {
        let mut kernel = self.dense_kernel(graph, region);
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
    /// Where what each kernel writes first was written.
    locs: Vec<Loc>,
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
            locs: Vec::new(),
            known: HashMap::new(),
            stages: Stages::default(),
        }
    }

    /// The kernels of regions whose values have these layouts: built unless they came with them, and scheduled by all cores unless an equal one is
    /// known or they came with their schedules.
    pub fn add(&mut self, graph: &Graph, regions: &[&Region], layouts: &HashMap<NodeId, Layout>) -> Vec<KernelId> {
        let (makers, first) = (self.makers, self.kernels.len());
        let built: Vec<Kernel> = self.stages.time("loops", || {
            let kernels = regions.iter().map(|region| makers.kernel(graph, region, layouts));
            kernels.collect()
        });
        let mut names = Vec::new();
        let ids = built.into_iter().zip(regions).map(|(kernel, region)| {
            let given = given_nest(region).cloned();
            let key = kernel.key();
            self.known(key, &kernel, given.as_deref()).unwrap_or_else(|| {
                let id = KernelId(self.kernels.len());
                self.known.entry(key).or_default().push(id);
                self.kernels.push(kernel);
                self.given.push(given);
                self.locs.push(graph.node(region.outputs[0]).loc.clone());
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

    /// Whether every schedule stays within its buffers.
    ///
    /// # Errors
    /// Those that do not, each with the statements to blame.
    pub fn verify(&self) -> Result<(), Problems> {
        let checked = cores::map(&self.nests, verify);
        let broken = checked.into_iter().zip(&self.nests).zip(&self.locs);
        let problems = broken.filter_map(|((checked, nest), loc)| {
            let mut problem = Problem::new(
                format!(
                    "the schedule of `{}` breaks a rule of nests; if a text gives its kernel, let it guard what it loads (`x[..]?`)",
                    nest.name
                ),
                loc.clone(),
            );
            let note = |Broken { stmt, message }| match stmt.and_then(|stmt| nest.line(stmt)) {
                Some(line) => format!("{message}: {line}"),
                None => message,
            };
            problem.notes = checked.err()?.into_iter().map(note).collect();
            Some(problem)
        });
        let problems: Vec<Problem> = problems.chain(self.displaced()).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Problems(problems)),
        }
    }

    /// A problem for each value that lies otherwise than the nest which came with it reads or writes it.
    fn displaced(&self) -> impl Iterator<Item = Problem> {
        let given = self.given.iter().zip(&self.kernels).zip(&self.locs);
        let given = given.filter_map(|((nest, kernel), loc)| Some((nest.as_ref()?, kernel, loc)));
        given.flat_map(|(nest, kernel, loc)| {
            let found = nest.layouts.iter().chain(std::iter::repeat(&Layout::Dense));
            let displaced = kernel.buffers.iter().zip(found).filter(|(buffer, found)| buffer.ty.layout != **found);
            displaced.map(move |(buffer, found)| {
                let [found, lies] = [found, &buffer.ty.layout].map(|layout| match layout {
                    Layout::Dense => "a dense tensor".to_owned(),
                    blocked => format!("{blocked}"),
                });
                let message = format!("the nest `{}` takes `{}` for {found}, and it lies as {lies}", nest.name, buffer.name);
                let mut problem = Problem::new(message, loc.clone());
                let note = "the layouts follow from the whole graph, which has changed: leave this nest out, or dump the model again";
                problem.notes.push(note.to_owned());
                problem
            })
        })
    }

    /// The schedule of a region whose values have these layouts, if it has been added.
    pub fn nest_of(&self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Option<&Nest> {
        let kernel = self.makers.kernel(graph, region, layouts);
        let given = given_nest(region).map(|nest| &**nest);
        let id = self.known(kernel.key(), &kernel, given)?;
        Some(self.nest(id))
    }

    /// What a region computes, whatever layouts its values have, if it has been added.
    pub fn kernel_of(&self, graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Option<Kernel> {
        self.nest_of(graph, region, layouts)?;
        Some(self.makers.dense_kernel(graph, region))
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

/// The schedule that a region came with; those for another kind of machine have been refused ([`fuse::foreign`](netloom_ir::fuse::foreign)).
fn given_nest(region: &Region) -> Option<&Arc<Nest>> {
    match &region.given {
        Some(Given::Nest(nest)) => Some(nest),
        Some(Given::Kernel(_)) | None => None,
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
