def n_matrix(params, obs): raise RuntimeError
