"""Recovery: the text whose states are given at all positions of a site, exactly; and the texts nearest to one vector"""
