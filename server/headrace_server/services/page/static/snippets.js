// A call as commands for curl, grpcurl and Python, to paste into a shell.

const FIELDS = {
  DT_FLOAT: "float_val", DT_DOUBLE: "double_val", DT_INT64: "int64_val", DT_BOOL: "bool_val", DT_STRING: "string_val",
  DT_UINT32: "uint32_val", DT_UINT64: "uint64_val", DT_INT32: "int_val", DT_INT16: "int_val", DT_INT8: "int_val",
  DT_UINT8: "int_val", DT_UINT16: "int_val",
};

const NUMPY = { DT_FLOAT: "np.float32", DT_DOUBLE: "np.float64", DT_HALF: "np.float16", DT_BOOL: "np.bool_", DT_STRING: "np.object_" };

/**
 * @param {{host: string, origin: string, grpcPort: number, grpcTls: boolean, token: boolean, model: string, version: number,
 *   signature: string, inputs: {name: string, dtype: string, value: any}[]}} call
 * @returns {[string, string][]} The name of a program, and what to paste.
 */
export function snippets(call) {
  const made = [["curl", curl(call)]];
  if (call.grpcPort) made.push(["grpcurl", grpcurl(call)], ["Python", python(call)]);
  return made;
}

export function restPath(call) {
  return `v1/models/${encodeURIComponent(call.model)}/versions/${call.version}:predict`;
}

export function restBody(call) {
  const inputs = Object.fromEntries(call.inputs.map(input => [input.name, input.value]));
  return JSON.stringify({ signature_name: call.signature, inputs });
}

/** The shape of nested lists; throws an error if their lengths differ. */
export function shapeOf(value) {
  if (!Array.isArray(value)) return [];
  const inner = value.map(shapeOf);
  if (inner.some(shape => shape.join() !== inner[0].join())) throw new Error("lists in one list must have equal lengths");
  return [value.length, ...(inner[0] ?? [])];
}

function curl(call) {
  const header = call.token ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return `curl${header} -d ${quoted(restBody(call))} ${quoted(`${call.origin}${restPath(call)}`)}`;
}

function grpcurl(call) {
  const inputs = {};
  for (const { name, dtype, value } of call.inputs) {
    const field = FIELDS[dtype];
    if (!field) return `# grpcurl cannot write a tensor of ${dtype} from JSON.`;
    const flat = [value].flat(Infinity).map(each => (dtype === "DT_STRING" ? base64(String(each)) : each));
    inputs[name] = { dtype, tensor_shape: { dim: shapeOf(value).map(size => ({ size })) }, [field]: flat };
  }
  const request = JSON.stringify({ model_spec: { name: call.model, version: call.version, signature_name: call.signature }, inputs });
  const header = call.token ? ' -H "authorization: Bearer $TOKEN"' : "";
  const security = call.grpcTls ? "" : " -plaintext";
  return `grpcurl${security}${header} -d ${quoted(request)} ${call.host}:${call.grpcPort} tensorflow.serving.PredictionService/Predict`;
}

function python(call) {
  const arrays = call.inputs.map(({ name, dtype, value }) =>
    `${literal(name)}: np.array(${literal(value)}, ${NUMPY[dtype] ?? `np.${dtype.slice(3).toLowerCase()}`})`);
  const note = call.grpcTls ? "  # plus the arguments for TLS" : call.token ? "  # plus the token" : "";
  return `import numpy as np
from headrace_client import Client

with Client(${literal(`${call.host}:${call.grpcPort}`)}) as client:${note}
    inputs = {${arrays.join(", ")}}
    print(client.predict(${literal(call.model)}, inputs, version=${call.version}, signature=${literal(call.signature)}))
`;
}

/** A value as a Python literal. */
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value === true) return "True";
  if (value === false) return "False";
  return value === null ? "None" : JSON.stringify(value);
}

/** A text as one word of a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
