// OpenAI's routes, by the official client for Node.

import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";

const MODEL = "palmita";
const QUESTION = "What is the capital of Japan?";
const CAPITAL = /Tokyo/;
const ask = { model: MODEL, messages: [{ role: "user", content: QUESTION }], temperature: 0 };
const respond = { model: MODEL, input: QUESTION, temperature: 0 };

const SCHEMA = {
  type: "object",
  properties: { city: { type: "string", enum: ["Lima", "Paris", "Tokyo"] } },
  required: ["city"],
  additionalProperties: false,
};

const connect = (apiKey, url = process.env.PALMA_URL) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });

const client = connect(process.env.PALMA_API_KEY);

const collect = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};

test("a chat is answered whole", async () => {
  const answer = await client.chat.completions.create(ask);

  assert.match(answer.choices[0].message.content, CAPITAL);
  assert.equal(answer.choices[0].finish_reason, "stop");
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.ok(completion_tokens > 1);
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
});

test("a chat streams what it answers whole", async () => {
  const whole = await client.chat.completions.create(ask);

  const streamed = { ...ask, stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(await client.chat.completions.create(streamed));

  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

test("the client's own helper puts a stream together", async () => {
  const whole = await client.chat.completions.create(ask);

  const final = await client.chat.completions.stream(ask).finalContent();

  assert.equal(final, whole.choices[0].message.content);
});

test("a schema binds an answer, and the client parses it", async () => {
  const json_schema = { name: "city", schema: SCHEMA, strict: true };
  const answer = await client.chat.completions.create({
    ...ask,
    response_format: { type: "json_schema", json_schema },
  });

  assert.ok(SCHEMA.properties.city.enum.includes(JSON.parse(answer.choices[0].message.content).city));
});

test("a text is completed, whole and as a stream", async () => {
  const body = { model: MODEL, prompt: "The capital of Japan is", max_tokens: 5, temperature: 0 };
  const whole = await client.completions.create(body);

  const chunks = await collect(await client.completions.create({ ...body, stream: true }));

  assert.ok(whole.choices[0].text.length > 0);
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
});

test("models are listed and retrieved", async () => {
  const models = await collect(client.models.list());

  assert.ok(models.some((model) => model.id === MODEL));
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
});

test("embeddings come as base64 and as numbers", async () => {
  const body = { model: MODEL, input: ["Tokyo", "the capital of Japan"] };
  const packed = await client.embeddings.create(body);
  const numbers = await client.embeddings.create({ ...body, encoding_format: "float" });

  assert.equal(packed.data.length, 2);
  packed.data.forEach(({ embedding }, index) => {
    const other = numbers.data[index].embedding;
    assert.equal(embedding.length, other.length);
    assert.ok(embedding.every((number, place) => Math.abs(number - other[place]) < 1e-6));
    assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-3);
  });
});

test("a response is answered, stored, continued and deleted", async () => {
  const first = await client.responses.create(respond);
  const second = await client.responses.create({
    ...respond,
    input: "And of Peru?",
    previous_response_id: first.id,
  });

  assert.match(first.output_text, CAPITAL);
  assert.equal(first.status, "completed");
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
  assert.equal((await client.responses.retrieve(first.id)).output_text, first.output_text);
  const items = await collect(client.responses.inputItems.list(first.id));
  assert.equal(items[0].content[0].text, QUESTION);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
});

test("a response streams what it answers whole", async () => {
  const whole = await client.responses.create(respond);

  const events = await collect(await client.responses.create({ ...respond, stream: true }));
  const final = await client.responses.stream(respond).finalResponse();

  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal(final.output_text, whole.output_text);
});

test("a conversation keeps what was said", async () => {
  const conversation = await client.conversations.create({});
  await client.responses.create({ ...respond, conversation: conversation.id });

  const items = await collect(client.conversations.items.list(conversation.id, { order: "asc" }));

  assert.deepEqual(items.map((item) => item.role), ["user", "assistant"]);
});

// The model that obeys its last message: the results of its calls tell it what to call next.
const mock = connect(process.env.PALMA_API_KEY, process.env.PALMA_MOCK_URL);
const callOf = (city) => {
  const call = JSON.stringify({ name: "look_up", arguments: { city } });
  return `say <tool_call>\n${call}\n</tool_call>`;
};
const RESULTS = { Lima: callOf("Oslo"), Oslo: callOf("Rome"), Rome: "count to 3" };
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

for (const stream of [false, true]) {
  test(`the client's own loop of calls goes three turns, stream ${stream}`, async () => {
    const asked = [];
    const look_up = {
      name: "look_up",
      parse: JSON.parse,
      parameters: PARAMETERS,
      function: ({ city }) => {
        asked.push(city);
        return RESULTS[city];
      },
    };

    const runner = mock.chat.completions.runTools({
      model: "mock",
      messages: [{ role: "user", content: callOf("Lima") }],
      tools: [{ type: "function", function: look_up }],
      stream,
    });

    assert.match(await runner.finalContent(), /^1 2 3/);
    assert.deepEqual(asked, ["Lima", "Oslo", "Rome"]);
  });
}

test("an agent goes three turns in responses", async () => {
  const tool = { type: "function", name: "look_up", parameters: PARAMETERS, strict: true };
  let asked = { model: "mock", tools: [tool], input: callOf("Lima") };

  for (const city of Object.keys(RESULTS)) {
    const response = await mock.responses.stream(asked).finalResponse();
    const [call] = response.output;
    assert.deepEqual(JSON.parse(call.arguments), { city });
    const output = { type: "function_call_output", call_id: call.call_id, output: RESULTS[city] };
    asked = { ...asked, input: [output], previous_response_id: response.id };
  }

  assert.match((await mock.responses.create(asked)).output_text, /^1 2 3/);
});

test("a tool that is demanded is called with what it takes", async () => {
  const tool = { type: "function", function: { name: "note", parameters: SCHEMA } };
  const answer = await client.chat.completions.create({
    ...ask,
    tools: [tool],
    tool_choice: "required",
    parallel_tool_calls: false,
  });

  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.ok(SCHEMA.properties.city.enum.includes(JSON.parse(call.function.arguments).city));
});

for (const stream of [false, true]) {
  test(`an unknown model is not found, stream ${stream}`, async () => {
    const wrong = { model: "gpt-9", stream };
    await assert.rejects(client.chat.completions.create({ ...ask, ...wrong }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.match(error.message, /gpt-9/);
      return true;
    });
    await assert.rejects(client.responses.create({ ...respond, ...wrong }), OpenAI.NotFoundError);
  });
}

test("a bad field is refused by name", async () => {
  for (const [field, value] of [["temperature", 9], ["temprature", 0], ["max_tokens", "1"]]) {
    await assert.rejects(client.chat.completions.create({ ...ask, [field]: value }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, field);
      return true;
    });
  }
});

test("a wrong key is refused", async () => {
  await assert.rejects(collect(connect("wrong").models.list()), OpenAI.AuthenticationError);
});

test("a client that leaves a stream leaves the server well", async () => {
  const stream = await client.chat.completions.create({ ...ask, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break;
  }
  stream.controller.abort();

  const answer = await client.chat.completions.create(ask);
  assert.match(answer.choices[0].message.content, CAPITAL);
});
