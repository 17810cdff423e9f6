from elbos.audit.testing import *
