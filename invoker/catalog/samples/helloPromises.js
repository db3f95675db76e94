function main(args) {
  return new Promise((resolve) => setTimeout(() => resolve({ done: true }), args.delay || 1000));
}
