'use strict';

// Drives `routes` of npm's `openwhisk`, unmodified, and calls what it has made: paths with parameters, response types, several base
// paths, documents in and out, and what is refused. Environment: APIHOST, AUTH, MODULES.

const assert = require('assert').strict;
const { clientOf, refused, run } = require('./npm_cases');

const openwhisk = clientOf('openwhisk');
const ow = openwhisk({ apihost: process.env.APIHOST, api_key: process.env.AUTH, apiversion: 'v1', retry: { retries: 0 } });

const ACTIONS = {
  book: 'def main(args):\n    return {"body": {"path": args["__ow_path"], "method": args["__ow_method"], "id": args.get("id")}}\n',
  page: 'def main(args):\n    return {"html": "<p>html</p>", "text": "text", "svg": "<svg/>", "body": "<b>http</b>", "statusCode": 201}\n',
};

// Asks an API; status, headers and body, JSON where it is.
async function ask(url, options) {
  const answer = await fetch(url, options);
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, text, json: () => JSON.parse(text) };
}

async function basePaths(options) {
  return (await ow.routes.list(options)).apis.map((each) => each.value.apidoc.basePath).sort();
}

const cases = {
  async a_path_with_parameters_passes_the_path() {
    const { gwApiUrl, apidoc } = await ow.routes.create({ basepath: '/library', relpath: '/books/{id}/pages/{page}', operation: 'GET', action: 'book' });
    assert.deepEqual(apidoc.paths['/books/{id}/pages/{page}'].parameters.map((each) => each.name), ['id', 'page']);
    const answer = await ask(`${gwApiUrl}/books/a%2Fb/pages/7?id=3`);
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual(answer.json(), { path: '/books/a%2Fb/pages/7', method: 'get', id: '3' });
  },

  async the_more_particular_path_goes_before() {
    const { gwApiUrl } = await ow.routes.create({ basepath: '/library', relpath: '/books/new/pages/1', operation: 'GET', action: 'page', responsetype: 'text' });
    assert.equal((await ask(`${gwApiUrl}/books/new/pages/1`)).text, '<b>http</b>');
    assert.equal((await ask(`${gwApiUrl}/books/new/pages/2`)).json().path, '/books/new/pages/2');
  },

  async each_response_type_is_the_web_actions() {
    const expected = { http: [201, 'text/html', '<b>http</b>'], html: [200, 'text/html', '<b>http</b>'], svg: [200, 'image/svg+xml', '<b>http</b>'], text: [200, 'text/plain', '<b>http</b>'], json: [200, 'application/json'] };
    for (const [responsetype, [status, media, body]] of Object.entries(expected)) {
      const { gwApiUrl } = await ow.routes.create({ basepath: '/types', relpath: `/${responsetype}`, operation: 'POST', action: 'page', responsetype });
      const answer = await ask(`${gwApiUrl}/${responsetype}`, { method: 'POST' });
      assert.deepEqual([answer.status, answer.headers.get('content-type').split(';')[0]], [status, media], responsetype);
      if (body) assert.equal(answer.text, body, responsetype);
      else assert.equal(answer.json().html, '<p>html</p>');
    }
    const error = await refused(ow.routes.create({ basepath: '/types', relpath: '/x', operation: 'GET', action: 'page', responsetype: 'xml' }), 502);
    assert.match(error.message, /'xml' is no response type/);
  },

  async several_base_paths_are_told_apart_the_longest_first() {
    await ow.routes.create({ basepath: '/shop', relpath: '/v2', operation: 'GET', action: 'book', responsetype: 'http' });
    const { gwApiUrl } = await ow.routes.create({ basepath: '/shop/v2', relpath: '/', operation: 'GET', action: 'page', responsetype: 'http' });
    assert.equal((await ask(`${gwApiUrl}/`)).text, '<b>http</b>');
    assert.deepEqual(await basePaths({ basepath: '/shop' }), ['/shop']);
    assert.ok((await basePaths()).length >= 3);
  },

  async an_api_is_found_and_taken_away_by_its_name() {
    await ow.routes.create({ name: 'My API', basepath: '/named', relpath: '/a', operation: 'GET', action: 'book' });
    await ow.routes.create({ name: 'My API', basepath: '/named', relpath: '/a', operation: 'PUT', action: 'book' });
    const { apis } = await ow.routes.get({ name: 'My API' });
    assert.deepEqual([apis.length, apis[0].value.apidoc.info.title], [1, 'My API']);
    assert.deepEqual(Object.keys(apis[0].value.apidoc.paths['/a']).sort(), ['get', 'put']);
    await ow.routes.delete({ name: 'My API' });
    assert.deepEqual(await basePaths({ name: 'My API' }), []);
  },

  async one_verb_and_one_path_are_taken_away_alone() {
    const made = { basepath: '/parts', action: 'book', responsetype: 'http' };
    for (const [relpath, operation] of [['/a', 'GET'], ['/a', 'POST'], ['/b', 'GET']]) await ow.routes.create({ ...made, relpath, operation });
    const { gwApiUrl } = await ow.routes.create({ ...made, relpath: '/c', operation: 'DELETE' });
    assert.deepEqual(await ow.routes.delete({ basepath: '/parts', relpath: '/a', operation: 'POST' }), {});
    assert.deepEqual([(await ask(`${gwApiUrl}/a`, { method: 'POST' })).status, (await ask(`${gwApiUrl}/a`)).status], [405, 200]);
    await ow.routes.delete({ basepath: '/parts', relpath: '/b' });
    assert.equal((await ask(`${gwApiUrl}/b`)).status, 404);
    const { apis } = await ow.routes.list({ basepath: '/parts', relpath: '/a', operation: 'get' });
    assert.deepEqual(Object.keys(apis[0].value.apidoc.paths), ['/a']);
    await refused(ow.routes.delete({ basepath: '/parts', relpath: '/b' }), 502);
    for (const relpath of ['/a', '/c']) await ow.routes.delete({ basepath: '/parts', relpath });
    assert.deepEqual(await basePaths({ basepath: '/parts' }), []);
  },

  async a_wrong_verb_and_a_wrong_path_say_so_to_any_page() {
    const { gwApiUrl } = await ow.routes.create({ basepath: '/errors', relpath: '/a', operation: 'GET', action: 'book' });
    for (const [path, method, status] of [['/a', 'DELETE', 405], ['/none', 'GET', 404]]) {
      const answer = await ask(gwApiUrl + path, { method });
      assert.equal(answer.status, status);
      assert.equal(answer.headers.get('access-control-allow-origin'), '*');
      const { error, code } = answer.json();
      assert.ok(error && typeof code === 'string' && code === answer.headers.get('x-request-id'));
    }
    assert.match((await ask(`${gwApiUrl}/a`, { method: 'DELETE' })).headers.get('allow'), /GET/);
  },

  async a_preflight_is_answered() {
    const { gwApiUrl } = await ow.routes.create({ basepath: '/errors', relpath: '/a', operation: 'PUT', action: 'book' });
    const headers = { Origin: 'http://page', 'Access-Control-Request-Method': 'PUT', 'Access-Control-Request-Headers': 'x-mine' };
    const answer = await ask(`${gwApiUrl}/a`, { method: 'OPTIONS', headers });
    assert.equal(answer.status, 200);
    assert.match(answer.headers.get('access-control-allow-methods'), /GET.*PUT/);
    assert.match(answer.headers.get('access-control-allow-headers'), /x-mine/i);
    assert.equal(answer.text, '');
  },

  async a_document_is_imported_and_what_is_exported_can_be_imported_again() {
    const swagger = {
      swagger: '2.0', basePath: '/imported', info: { title: 'In', version: '3' }, 'x-mine': [1],
      paths: { '/b/{id}': { get: { operationId: 'one', responses: {}, 'x-openwhisk': { namespace: '_', package: 'default', action: 'book', url: 'https://any/api/v1/web/_/default/book.http' } } } },
    };
    const { gwApiUrl } = await ow.routes.create({ swagger: JSON.stringify(swagger) });
    assert.equal((await ask(`${gwApiUrl}/b/7`)).status, 200);
    const exported = (await ow.routes.get({ basepath: '/imported' })).apis[0].value.apidoc;
    assert.deepEqual(exported['x-mine'], [1]);
    await ow.routes.delete({ basepath: '/imported' });
    await ow.routes.create({ swagger: exported });
    assert.deepEqual((await ow.routes.get({ basepath: '/imported' })).apis[0].value.apidoc, exported);
    const error = await refused(ow.routes.create({ swagger: { ...swagger, security: [{ key: [] }] } }), 502);
    assert.match(error.message, /security is not enforced/);
  },

  async a_secured_action_is_reached_through_its_api_only() {
    await ow.actions.update({ name: 'secured', action: ACTIONS.book, kind: 'python:3', annotations: { 'web-export': true, 'require-whisk-auth': 's3cret' } });
    const { gwApiUrl } = await ow.routes.create({ basepath: '/secured', relpath: '/a', operation: 'GET', action: 'secured', secure_key: 's3cret' });
    assert.equal((await ask(`${process.env.APIHOST}/api/v1/web/anna/default/secured.json`)).status, 401);
    assert.equal((await ask(`${gwApiUrl}/a`)).status, 200);
  },
};

run(cases, async () => {
  for (const [name, action] of Object.entries(ACTIONS)) await ow.actions.update({ name, action, kind: 'python:3', annotations: { 'web-export': true } });
});
