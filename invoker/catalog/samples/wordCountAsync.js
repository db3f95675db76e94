function main(args) {
  const text = String(args.payload ?? '').trim();
  const count = text ? text.split(/\s+/).length : 0;
  console.log(`The message '${text}' has ${count} words`);
  return Promise.resolve({ count });
}
