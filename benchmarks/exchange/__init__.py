"""The path of results, from many actors to one learner, without engines at either end."""
