//! Ops with bodies: scan, if, while. A body of ours sees its operands alone; one of ONNX sees every name around it, so that only what changes from
//! step to step is passed.

use netloom_ir::ops::{Branch, Loop, Scan};
use netloom_ir::{DType, Graph, Node, Tensor, Type};

use super::{Value, Writer, value_info};
use crate::formats::onnx::proto::attribute_proto::AttributeType;
use crate::formats::onnx::proto::{AttributeProto, GraphProto, ValueInfoProto};

impl Writer {
    /// `Scan`: the step number is one more sliced operand.
    pub(super) fn scan(&mut self, scan: &Scan, args: &[&str], node: &Node) -> Result<Vec<String>, String> {
        let types: Vec<Type> = scan.body.inputs().iter().map(|&id| scan.body.ty(id).clone()).collect();
        let passed = scan.carried + scan.sliced;
        let mut inputs: Vec<String> = args[..passed].iter().map(|&arg| arg.to_owned()).collect();
        let mut given: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut parameters = Vec::new();
        for (name, ty) in given.iter_mut().zip(&types).take(passed) {
            *name = self.fresh();
            parameters.push(value_info(name, ty));
        }
        if scan.counted {
            let steps: Vec<i64> = (0..scan.length as i64).collect();
            inputs.push(self.ints(&steps));
            let name = self.fresh();
            parameters.push(value_info(&name, &Type::new(DType::I64, [])));
            given.push(name);
        }
        let body = self.body(parameters, |writer| writer.inline(&scan.body, &given), &scan.body)?;
        let sliced = scan.sliced + usize::from(scan.counted);
        let stacked = node.types.len() - scan.carried;
        let backwards = |count: usize| Value::Ints(vec![i64::from(scan.reverse); count]);
        let attributes = vec![
            ("num_scan_inputs", Value::Int(sliced as i64)),
            ("scan_input_directions", backwards(sliced)),
            ("scan_output_directions", backwards(stacked)),
        ];
        if sliced == 0 {
            return Err("a scan over nothing has no operator in ONNX".to_owned());
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(self.push_with_bodies("Scan", &inputs, attributes, vec![("body", body)], node.types.len()))
    }

    /// `If`.
    pub(super) fn branch(&mut self, branch: &Branch, args: &[&str], node: &Node) -> Result<Vec<String>, String> {
        let given: Vec<String> = args[1..].iter().map(|&arg| arg.to_owned()).collect();
        let mut side = |graph: &Graph| self.body(Vec::new(), |writer| writer.inline(graph, &given), graph);
        let bodies = vec![
            ("then_branch", side(&branch.then)?),
            ("else_branch", side(&branch.otherwise)?),
        ];
        Ok(self.push_with_bodies("If", &args[..1], vec![], bodies, node.types.len()))
    }

    /// `Loop`: the first condition before it, the others at the end of each step.
    pub(super) fn while_loop(&mut self, whil: &Loop, args: &[&str], node: &Node) -> Result<Vec<String>, String> {
        let mut given: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let first = self.inline(&whil.condition, &given)?;
        let [number, go_on] = [(); 2].map(|()| self.fresh());
        let mut parameters = vec![
            value_info(&number, &Type::new(DType::I64, [])),
            value_info(&go_on, &Type::new(DType::Bool, [])),
        ];
        for (name, ty) in given.iter_mut().zip(&node.types) {
            *name = self.fresh();
            parameters.push(value_info(name, ty));
        }
        let mut body = self.body(
            parameters,
            |writer| {
                let next = writer.inline(&whil.body, &given)?;
                let seen: Vec<String> = next.iter().chain(&given[whil.carried..]).cloned().collect();
                let condition = writer.inline(&whil.condition, &seen)?;
                Ok(condition.into_iter().chain(next).collect())
            },
            &whil.body,
        )?;
        // The body's first result is the condition, which `body` cannot know from the graph.
        let condition = Type::new(DType::Bool, []);
        let types = std::iter::once(&condition).chain(&node.types);
        body.output = (body.output.iter().zip(types))
            .map(|(output, ty)| value_info(output.name(), ty))
            .collect();
        let mut inputs = vec!["", first[0].as_str()];
        inputs.extend(&args[..whil.carried]);
        Ok(self.push_with_bodies("Loop", &inputs, vec![], vec![("body", body)], node.types.len()))
    }

    /// A body of these parameters whose results `write` makes; their types are those of the graph's outputs.
    fn body(
        &mut self,
        parameters: Vec<ValueInfoProto>,
        write: impl FnOnce(&mut Writer) -> Result<Vec<String>, String>,
        graph: &Graph,
    ) -> Result<GraphProto, String> {
        let outer = std::mem::take(&mut self.out);
        let results = write(self);
        let results = results.map(|results| -> Vec<String> {
            // A body may hand on what it was given, which needs a name of its own.
            results
                .iter()
                .map(|result| self.push("Identity", &[result], vec![]))
                .collect()
        });
        let mut body = std::mem::replace(&mut self.out, outer);
        body.name = Some(self.fresh());
        body.input = parameters;
        let results = results?;
        let types = graph.outputs.iter().map(|(_, id)| graph.ty(*id));
        let last = graph.outputs.last().map(|(_, id)| graph.ty(*id));
        let types = types.chain(last.into_iter().cycle());
        body.output = results
            .iter()
            .zip(types)
            .map(|(name, ty)| value_info(name, ty))
            .collect();
        Ok(body)
    }

    /// The nodes of a graph whose inputs have these names; gives the names of its outputs.
    fn inline(&mut self, graph: &Graph, given: &[String]) -> Result<Vec<String>, String> {
        let names = graph.inputs().iter().copied().zip(given.iter().cloned()).collect();
        let names = std::mem::replace(&mut self.names, names);
        let parts = std::mem::take(&mut self.parts);
        let live = graph.live();
        let nodes = graph.nodes().filter(|(id, _)| live[id.at()]);
        let mut done = Ok(());
        for (id, node) in nodes {
            done = done.and_then(|()| {
                self.node(graph, id, node)
                    .map_err(|reason| format!("in its body, {}: {reason}", node.op.name()))
            });
        }
        self.parts = parts;
        let names = std::mem::replace(&mut self.names, names);
        done?;
        Ok(graph.outputs.iter().map(|(_, id)| names[id].clone()).collect())
    }

    fn push_with_bodies(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: Vec<(&str, Value)>,
        bodies: Vec<(&str, GraphProto)>,
        results: usize,
    ) -> Vec<String> {
        let outputs = self.push_many(op, inputs, attributes, results);
        let last = self.out.node.last_mut().expect("it was pushed");
        last.attribute
            .extend(bodies.into_iter().map(|(name, body)| AttributeProto {
                name: Some(name.to_owned()),
                g: Some(body),
                r#type: Some(AttributeType::Graph as i32),
                ..AttributeProto::default()
            }));
        outputs
    }

    /// A list of whole numbers as an initialiser of the graph being written.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        self.constant(&Tensor::from_i64([values.len()], values))
    }
}
