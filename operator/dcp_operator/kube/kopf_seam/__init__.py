"""The watches, as kopf keeps them open. Nothing else of dcp_operator imports kopf.

What kopf does here: it lists each watched resource, keeps a watch on it open from there, renews the watch when it ends,
breaks off or falls silent, lists again where the API server has forgotten the version, and reads the credentials anew
after a 401. Those are some thousand lines that many clusters have tried out. What kopf offers beyond that is turned
off: handlers with retries, finalizers, annotations, events, peering.

How it is used: kopf takes an object through a filter (`when=`) before it calls a handler for it. Executing a handler
costs several times what a filter does, and an event here needs one look at a dict: ten thousand finished Checkpoints
are some forty thousand events at every start. So the filter is the event loop: it hands the event to `hear` and answers
False, and kopf never calls a handler. Hence kopf adds no finalizer, which would hang a namespace that is deleted while
no operator runs, and writes no annotation.

    watching     the interface: `watch(watches, ...)` runs until it is told to stop
    internals    the private names of kopf that are used; kopf is pinned, and each name has a test
"""
